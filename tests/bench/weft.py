"""What Weft needs beside its two sidecars: a CA, a controller and the objects they serve, as a user would write them. Nothing is configured by hand in the
sidecars: they fetch their certificates and look everything up, so `first200` includes both.

The client pod is 10.77.0.1, the server pod 10.77.0.2, the Service's ClusterIP peers.VIP. CA and controller run on the node (10.77.0.254).
"""
import json
import os
import subprocess

NODE = "10.77.0.254"
CA, CONTROLLER = f"{NODE}:15010", f"{NODE}:15012"
DOMAIN = "bench.example"
PODS = {"client": "10.77.0.1", "server": "10.77.0.2"}
EIGHT = range(8090, 8098)       # ports of the server pod that stand for eight endpoints (HTTP/1.1)
EIGHT_H2 = range(8190, 8198)    # and for HTTP/2


def uid(name):
    return f"00000000-0000-4000-8000-{'c' if name == 'client' else 'd'}00000000000"


def service(name, ip, ports, selector=True):
    text = f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n  clusterIP: {ip}\n"
    if selector:
        text += "  selector: {app: server}\n"
    text += "  ports:\n"
    for n, port, protocol in ports:
        text += f"  - {{name: {n}, port: {port}, targetPort: {port}, appProtocol: {protocol}}}\n"
    return text


def route(service_name, port):
    """Seven rules with header matches, so that matching costs what it costs in life; retries and timeouts configured."""
    rules = ""
    matches = ['path: {type: PathPrefix, value: /api/v2/orders}, headers: [{name: x-canary, value: "1"}]', "path: {type: PathPrefix, value: /api/v2}",
               "path: {type: PathPrefix, value: /api}", "path: {type: PathPrefix, value: /static}", "headers: [{name: x-canary, value: always}]",
               "headers: [{name: x-user-group, value: beta}]", "path: {type: PathPrefix, value: /}"]
    for m in matches:
        rules += f"""  - matches: [{{{m}}}]
    backendRefs: [{{name: {service_name}, port: {port}}}]
    retry: {{codes: [502, 503, 504], attempts: 2, backoff: 25ms}}
    timeouts: {{request: 30s, backendRequest: 10s}}
"""
    return f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {service_name}-{port}, namespace: bench}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {service_name}, port: {port}}}]
  rules:
{rules}"""


def slices(name, ports, service_port_name):
    text = ""
    for p in ports:
        text += f"""---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{p}, namespace: bench, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: {service_port_name}, port: {p}, protocol: TCP}}]
endpoints: [{{addresses: ["{PODS['server']}"], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: server, namespace: bench, uid: "{uid('server')}"}}}}]
"""
    return text


def objects(vip, meshed):
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bench, labels: {weft.dev/inject: enabled}}\n"
    for name, ip in PODS.items():
        inject = "enabled" if meshed or name == "client" else "disabled"
        ports = [8080, 8081, 5201, 8083, *EIGHT, *EIGHT_H2] if name == "server" else []
        text += f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: bench, uid: "{uid(name)}", labels: {{app: {name}, weft.dev/inject: {inject}}}}}
spec: {{serviceAccountName: {name}, containers: [{{name: app, image: app, ports: {json.dumps([{"containerPort": p} for p in ports])}}}]}}
status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: "True"}}]}}
"""
    text += service("web", vip, [("http", 8080, "http"), ("grpc", 8081, "kubernetes.io/h2c"), ("bulk", 5201, "tcp"), ("raw", 8083, "tcp")])
    text += service("many", "10.96.0.11", [("http", 8080, "http")], False) + slices("many", EIGHT, "http")
    text += service("many-h2", "10.96.0.12", [("grpc", 8081, "kubernetes.io/h2c")], False) + slices("many-h2", EIGHT_H2, "grpc")
    return text + route("web", 8080) + route("web", 8081) + route("many", 8080) + route("many-h2", 8081)


class Plane:
    """CA and controller of one run."""

    def __init__(self, tool, directory, vip, start):
        self.dir, self.vip, self.tool = directory, vip, tool
        subprocess.run(["rm", "-rf", directory], check=True)
        for d in ("objects", "tokens", "state/client", "state/server"):
            os.makedirs(f"{directory}/{d}")
        self.write(True)
        key, state = f"{directory}/token-key.pem", f"{directory}/ca"
        self.ask(["token-key", "--out", key])
        self.ask(["init", "--state", state, "--trust-domain", DOMAIN])
        subprocess.run(["cp", f"{state}/bundle.pem", f"{directory}/bundle.pem"], check=True)
        for ns, account, name in (("weft-system", "weft-controller", "controller"), ("bench", "client", "client"), ("bench", "server", "server")):
            u = "00000000-0000-4000-8000-c00000000001" if name == "controller" else uid(name)
            with open(f"{directory}/tokens/{name}", "w") as f:
                f.write(self.ask(["token", "--key", key, "--namespace", ns, "--service-account", account, "--pod", name, "--uid", u]))
        # the CA refuses a state that others can read, so only what the sidecars need is opened
        subprocess.run(["chmod", "-R", "a+rX", f"{directory}/tokens", f"{directory}/objects", f"{directory}/bundle.pem"], check=True)
        subprocess.run(["chmod", "-R", "a+rwX", f"{directory}/state"], check=True)
        self.procs = [start([tool("weft-ca"), "serve", "--state", state, "--trust-domain", DOMAIN, "--token-key", key, "--listen", CA], f"{directory}/ca.log"),
                      start([tool("weft-controller"), "serve", "--folder", f"{directory}/objects", "--listen", CONTROLLER, "--trust-domain", DOMAIN,
                             "--ca", CA, "--token", f"{directory}/tokens/controller", "--bundle", f"{directory}/bundle.pem"], f"{directory}/controller.log")]

    def ask(self, args):
        r = subprocess.run([self.tool("weft-ca")] + args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if r.returncode:
            raise RuntimeError(f"weft-ca {args}: {r.stderr}")
        return r.stdout.strip()

    def write(self, meshed):
        with open(f"{self.dir}/new", "w") as f:
            f.write(objects(self.vip, meshed))
        os.chmod(f"{self.dir}/new", 0o644)
        os.rename(f"{self.dir}/new", f"{self.dir}/objects/all.yaml")

    def config(self, side):
        """The sidecar's start configuration: JSON is YAML."""
        name = "client" if side == "out" else "server"
        return json.dumps({
            "pod": {"uid": uid(name), "ips": [PODS[name]], "namespace": "bench", "name": name,
                    "identity": f"spiffe://{DOMAIN}/ns/bench/sa/{name}"},
            "capture": {"kernel": {"outbound": ["0.0.0.0:15001"], "inbound": ["0.0.0.0:15006"]}},
            "credentials": {"ca": {"address": CA, "token": f"{self.dir}/tokens/{name}", "bundle": f"{self.dir}/bundle.pem",
                                   "state": f"{self.dir}/state/{name}"}},
            "controller": {"address": CONTROLLER},
        })

    def stop(self):
        for p in reversed(self.procs):
            p.stop()
