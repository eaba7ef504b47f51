"""The peers: for each, the configuration it is given and the command that starts it.

A peer is a pair of sidecars. The client pod's iptables sends the application ports to the
outbound sidecar, the server pod's to the inbound one, as a mesh's init container would:

    app port        outbound listens   inbound listens
    8080  HTTP/1.1       15001              15016
    8081  h2c            15002              15017
    5201  raw TCP        15003              15018
    8083  HTTP as TCP    15004              15019

A peer that recovers the original destination itself (Weft) maps all of them to one port: see `out_ports` / `in_ports`. With mode "onehop" only the outbound sidecar
runs, and speaks plain text to the server.
"""
import os
import re
import shutil

import weft

SRV = "10.77.0.2"                # address of the server pod: what sidecars dial
VIP = "10.96.0.10"               # ClusterIP of the Service before it: what clients dial
MANY, MANY_H2 = "10.96.0.11", "10.96.0.12"   # Services with eight endpoints each; Weft alone balances over them
H1, H2, BULK, TCPH = 8080, 8081, 5201, 8083
OUT = {H1: 15001, H2: 15002, BULK: 15003, TCPH: 15004}
IN = {H1: 15016, H2: 15017, BULK: 15018, TCPH: 15019}
SNI = "server.mesh.test"


class Peer:
    name = "?"
    out_ports, in_ports = OUT, IN
    cases = {"h1", "h2", "tcp", "onehop"}
    note = ""

    def __init__(self, ctx):
        self.ctx = ctx
        self.dir = os.path.join(ctx.work, "conf", self.name)
        os.makedirs(self.dir, exist_ok=True)
        os.chmod(self.dir, 0o777)

    def binary(self):
        return None

    def prepare(self, start):
        """Starts what the peer needs beside its sidecars; `start(argv, log)` runs a program on the node."""

    def cleanup(self):
        """Ends what `prepare` started."""

    def version(self):
        return ""

    def path(self, name, text=None):
        p = os.path.join(self.dir, name)
        if text is not None:
            with open(p, "w") as f:
                f.write(text)
        return p

    def command(self, side, mode):
        """(argv, environment) of the sidecar on `side` ("out" or "in")."""
        raise NotImplementedError

    def pem(self, side):
        d = os.path.join(self.ctx.work, "certs", "client" if side == "out" else "server")
        return d + "/ca.pem", d + "/cert.pem", d + "/key.pem", d + "/both.pem"


class NoProxy(Peer):
    name = "none"
    out_ports, in_ports = {}, {}
    cases = {"h1", "h2", "tcp"}


class Floor(Peer):
    """The bare epoll relay of floor/: no HTTP, no policy, no metrics; what physics allows."""
    name = "floor"
    note = "layer-4 epoll + rustls, no HTTP parsing, one mTLS connection per client connection"

    def binary(self):
        return self.ctx.tool("floor")

    def command(self, side, mode):
        d = os.path.dirname(self.pem(side)[0])
        order = [H1, H2, BULK, TCPH]
        if side == "out":
            ls = ",".join(f"0.0.0.0:{OUT[p]}" for p in order)
            cs = ",".join(f"{SRV}:{p}" for p in order)
            flags = ["--connect-tls", d] if mode == "pair" else []
        else:
            ls = ",".join(f"0.0.0.0:{IN[p]}" for p in order)
            cs = ",".join(f"127.0.0.1:{p}" for p in order)
            flags = ["--accept-tls", d]
        return [self.binary(), "relay", ls, cs] + flags, {}


class Envoy(Peer):
    name = "envoy"
    note = "router filter only, HTTP/1.1 stays HTTP/1.1 between the sidecars (Istio's default)"
    upgrade_h2 = False
    heavy = False

    def binary(self):
        return self.ctx.tool("envoy")

    def version(self):
        out = self.ctx.output([self.binary(), "--version"])
        m = re.search(r"/(\d+\.\d+\.\d+)", out)
        return m.group(1) if m else out.strip()

    def listener(self, side, mode, port, app):
        addr = f"address: {{ socket_address: {{ address: 0.0.0.0, port_value: {port} }} }}"
        tcp = app in (BULK, TCPH)
        if tcp:
            flt = (f"""      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t{app}
          cluster: c{app}""")
        else:
            extra, log = "", ""
            if self.heavy:
                log = """
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /dev/null"""
                extra = """
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies: { all: { permissions: [ { any: true } ], principals: [ { any: true } ] } }
          - name: envoy.filters.http.grpc_stats
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig
              emit_filter_state: true
              stats_for_all_methods: false
          - name: envoy.filters.http.fault
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
          - name: envoy.filters.http.cors
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"""
            flt = (f"""      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: h{app}
          codec_type: AUTO
          generate_request_id: {"true" if self.heavy else "false"}{log}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: c{app}, timeout: 0s }}
          http_filters:{extra}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router""")
        tls = ""
        if side == "in":
            ca, crt, key, _ = self.pem(side)
            alpn = "" if tcp else "\n            alpn_protocols: [h2, http/1.1]"
            tls = f"""
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          disable_stateless_session_resumption: true
          disable_stateful_session_resumption: true
          common_tls_context:{alpn}
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificates: [ {{ certificate_chain: {{ filename: {crt} }}, private_key: {{ filename: {key} }} }} ]
            validation_context: {{ trusted_ca: {{ filename: {ca} }} }}"""
        return f"""  - name: l{app}
    {addr}
    filter_chains:
    - filters:
{flt}{tls}
"""

    def cluster(self, side, mode, app):
        host = SRV if side == "out" else "127.0.0.1"
        tls, proto = "", ""
        if app not in (BULK, TCPH):
            h2 = app == H2 or (self.upgrade_h2 and side == "out" and mode == "pair")
            body = ("http2_protocol_options: {}" if h2 else "http_protocol_options: {}")
            proto = f"""
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ {body} }}"""
        if side == "out" and mode == "pair":
            ca, crt, key, _ = self.pem(side)
            alpn = ""
            if app not in (BULK, TCPH):
                alpn = f"\n          alpn_protocols: [{'h2' if h2 else 'http/1.1'}]"
            tls = f"""
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {SNI}
        max_session_keys: 0
        common_tls_context:{alpn}
          tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
          tls_certificates: [ {{ certificate_chain: {{ filename: {crt} }}, private_key: {{ filename: {key} }} }} ]
          validation_context: {{ trusted_ca: {{ filename: {ca} }} }}"""
        return f"""  - name: c{app}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{ thresholds: [ {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }} ] }}
    load_assignment:
      cluster_name: c{app}
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {app} }} }} }} }} ] }} ]{proto}{tls}
"""

    def command(self, side, mode):
        ports = OUT if side == "out" else IN
        text = "static_resources:\n  listeners:\n"
        text += "".join(self.listener(side, mode, p, a) for a, p in ports.items())
        text += "  clusters:\n" + "".join(self.cluster(side, mode, a) for a in ports)
        conf = self.path(f"{side}-{mode}.yaml", text)
        return [self.binary(), "-c", conf, "--concurrency", "1", "--disable-hot-restart", "-l", "error"], {}


class EnvoyH2(Envoy):
    name = "envoy-h2"
    upgrade_h2 = True
    cases = {"h1"}
    note = "as envoy, but HTTP/1.1 requests are carried over HTTP/2 between the sidecars"


class EnvoyHeavy(Envoy):
    name = "envoy-mesh"
    heavy = True
    cases = {"h1", "h2"}
    note = "as envoy, plus what a mesh turns on: access log (to /dev/null), RBAC, gRPC stats, fault, CORS, request ids"


class Nginx(Peer):
    name = "nginx"
    note = "proxy_pass with keep-alive; gRPC module for HTTP/2; stream module for TCP"

    def binary(self):
        return shutil.which("nginx") or "/usr/sbin/nginx"

    def version(self):
        return self.ctx.output([self.binary(), "-v"]).strip().split("/")[-1]

    def command(self, side, mode):
        ports = OUT if side == "out" else IN
        host = SRV if side == "out" else "127.0.0.1"
        ca, crt, key, _ = self.pem(side)
        to_tls = side == "out" and mode == "pair"
        from_tls = side == "in"
        on = " ssl" if from_tls else ""
        srv_tls = f"""
      ssl_certificate {crt}; ssl_certificate_key {key}; ssl_client_certificate {ca};
      ssl_verify_client on; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;
      ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;""" if from_tls else ""

        def cli(prefix):
            return f"""
      {prefix}_ssl_certificate {crt}; {prefix}_ssl_certificate_key {key}; {prefix}_ssl_trusted_certificate {ca};
      {prefix}_ssl_verify on; {prefix}_ssl_name {SNI}; {prefix}_ssl_server_name on; {prefix}_ssl_protocols TLSv1.3;
      {prefix}_ssl_session_reuse off; {prefix}_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;""" if to_tls else ""

        h1s, h2s = ("https", "grpcs") if to_tls else ("http", "grpc")
        stream_ssl = "proxy_ssl on;" if to_tls else ""
        text = f"""
load_module modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid {self.dir}/{side}.pid; error_log {self.dir}/{side}.err error;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p;
  fastcgi_temp_path {self.dir}/f; uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;
  keepalive_requests 100000000; keepalive_timeout 600s; tcp_nodelay on; client_max_body_size 0;
  upstream h1 {{ server {host}:{H1}; keepalive 256; keepalive_requests 100000000; }}
  upstream h2 {{ server {host}:{H2}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {ports[H1]}{on} backlog=4096;{srv_tls}
    location / {{
      proxy_pass {h1s}://h1; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering on;{cli("proxy")}
    }}
  }}
  server {{
    listen {ports[H2]}{on} http2 backlog=4096;{srv_tls}
    http2_max_concurrent_streams 1024;
    location / {{ grpc_pass {h2s}://h2;{cli("grpc")} }}
  }}
}}
stream {{
  server {{ listen {ports[BULK]}{on} backlog=4096;{srv_tls} proxy_pass {host}:{BULK}; {stream_ssl}{cli("proxy")} }}
  server {{ listen {ports[TCPH]}{on} backlog=4096;{srv_tls} proxy_pass {host}:{TCPH}; {stream_ssl}{cli("proxy")} }}
}}
"""
        conf = self.path(f"{side}-{mode}.conf", text.replace("load_module modules/", "load_module /usr/lib/nginx/modules/"))
        return [self.binary(), "-c", conf, "-e", f"{self.dir}/{side}.err"], {}


class Haproxy(Peer):
    name = "haproxy"
    note = "http-reuse always, one thread"

    def binary(self):
        return shutil.which("haproxy") or "/usr/sbin/haproxy"

    def version(self):
        m = re.search(r"version (\S+)", self.ctx.output([self.binary(), "-v"]))
        return m.group(1) if m else ""

    def command(self, side, mode):
        ports = OUT if side == "out" else IN
        host = SRV if side == "out" else "127.0.0.1"
        ca, crt, key, both = self.pem(side)
        text = """
global
  nbthread 1
  maxconn 8000
  tune.ssl.cachesize 0
  # OpenSSL would take AES-256; everybody here has AES-128-GCM
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-server-verify required
defaults
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
"""
        for app, port in ports.items():
            tcp = app in (BULK, TCPH)
            b = f"bind 0.0.0.0:{port} backlog 4096"
            s = f"server s {host}:{app}"
            if side == "in":
                b += f" ssl crt {both} ca-file {ca} verify required"
                b += "" if tcp else (" alpn h2" if app == H2 else " alpn http/1.1")
            elif app == H2:
                b += " proto h2"
            if side == "out" and mode == "pair":
                s += f" ssl crt {both} ca-file {ca} verify required sni str({SNI}) no-ssl-reuse"
                s += "" if tcp else (" alpn h2" if app == H2 else " alpn http/1.1")
            elif app == H2:
                s += " proto h2"
            text += f"""
listen l{app}
  mode {'tcp' if tcp else 'http'}
  {b}
  {s}
"""
        conf = self.path(f"{side}-{mode}.cfg", text)
        return [self.binary(), "-db", "-f", conf], {}


class Weft(Peer):
    """Our own sidecar, with a CA and a controller beside it (weft.py)."""
    name = "weft"
    out_ports = {p: 15001 for p in (H1, H2, BULK, TCPH)}
    in_ports = {p: 15006 for p in (H1, H2, BULK, TCPH, *weft.EIGHT, *weft.EIGHT_H2)}
    cases = {"h1", "h2", "tcp", "onehop", "many"}
    note = "routes with header matches, retries and timeouts configured, metrics on, certificates from a running CA"

    def binary(self):
        return self.ctx.tool("weft-proxy")

    def prepare(self, start):
        self.plane = weft.Plane(self.ctx.tool, self.dir + "/plane", VIP, start)

    def cleanup(self):
        self.plane.stop()

    def command(self, side, mode):
        self.plane.write(mode == "pair")
        return [self.binary(), "--config", self.path(f"{side}-{mode}.yaml", self.plane.config(side))], {}


ALL = [NoProxy, Floor, Envoy, EnvoyH2, EnvoyHeavy, Nginx, Haproxy, Weft]
