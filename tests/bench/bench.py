#!/usr/bin/env python3
"""Sidecar benchmark: one command runs every peer in turn and prints a table. See README.md."""
import argparse
import json
import os
import re
import resource
import platform
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import peers as P  # noqa: E402
import profile_pair  # noqa: E402
import report  # noqa: E402
import weft  # noqa: E402

PREFIX = os.environ.get("WEFTBENCH_NS", "wb")          # at most 4 letters; lets two runs coexist
CLI, SRV_NS = PREFIX + "-cli", PREFIX + "-srv"
TICK = os.sysconf("SC_CLK_TCK")
LOAD_CPU = os.environ.get("WEFTBENCH_LOAD_CPU", "0")    # load generator + upstream server
PROXY_CPU = os.environ.get("WEFTBENCH_PROXY_CPU", "1")  # both sidecars
NICE = os.environ.get("WEFTBENCH_NICE", "-15")          # so that other work on the machine disturbs little
FIFO = os.environ.get("WEFTBENCH_FIFO", "1") == "1"      # real-time scheduling during the latency cases
UID = 1337


class Ctx:
    def __init__(self):
        self.here = HERE
        self.work = os.environ.get("WEFTBENCH_DIR", "/var/tmp/weft-bench")
        os.makedirs(self.work, exist_ok=True)
        os.chmod(self.work, 0o755)

    def output(self, argv):
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return r.stdout

    def tool(self, name):
        """A program that setup.sh installed, or that WEFTBENCH_<NAME> names."""
        env = os.environ.get("WEFTBENCH_" + name.upper())
        return env or os.path.join(self.work, "bin", name)


def sh(cmd, check=True):
    r = subprocess.run(["bash", "-c", cmd], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and r.returncode:
        raise RuntimeError(f"{cmd}\n{r.stdout}")
    return r.stdout


def in_ns(ns, argv, cpu, uid=None):
    out = ["nsenter", f"--net=/run/netns/{ns}", "nice", "-n", NICE, "taskset", "-c", cpu]
    if uid:
        out += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return out + argv


# ---------------------------------------------------------------- topology

def net_down():
    for ns in (CLI, SRV_NS):
        sh(f"ip netns del {ns} 2>/dev/null", check=False)
    sh(f"ip link del {PREFIX}-br 2>/dev/null", check=False)


def net_up():
    net_down()
    sh(f"ip link add {PREFIX}-br type bridge && ip addr add {weft.NODE}/24 dev {PREFIX}-br && ip link set {PREFIX}-br up")
    for ns, ip in ((CLI, "10.77.0.1"), (SRV_NS, P.SRV)):
        v = ns.replace("-", "v")
        sh(f"""ip netns add {ns}
ip link add {v} type veth peer name eth0 netns {ns}
ip link set {v} master {PREFIX}-br up
ip -n {ns} addr add {ip}/24 dev eth0; ip -n {ns} link set eth0 up; ip -n {ns} link set lo up; ip -n {ns} route add default dev eth0
nsenter --net=/run/netns/{ns} sysctl -qw net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1 net.core.somaxconn=4096 net.ipv4.ip_local_reserved_ports=4140-4200,5201,8080-8099,8190-8199,15000-15060""")


def redirect(peer, pair):
    """The init container's rules: application ports to the sidecars, the sidecars' own traffic exempt."""
    for ns in (CLI, SRV_NS):
        sh(f"nsenter --net=/run/netns/{ns} iptables -t nat -F")
    ex = f"-m owner ! --uid-owner {UID}"
    if not peer.out_ports:  # what kube-proxy does where nobody captures
        sh(f"nsenter --net=/run/netns/{CLI} iptables -t nat -A OUTPUT -p tcp -d {P.VIP} -j DNAT --to-destination {P.SRV}")
    for app, port in peer.out_ports.items():
        # the Service's own address; "many" and "many-h2" lie beside it
        sh(f"nsenter --net=/run/netns/{CLI} iptables -t nat -A OUTPUT -p tcp -d {P.VIP}/29 --dport {app} {ex} -j REDIRECT --to-ports {port}")
    for app, port in (peer.in_ports.items() if pair else ()):
        sh(f"nsenter --net=/run/netns/{SRV_NS} iptables -t nat -A PREROUTING -i eth0 -p tcp --dport {app} -j REDIRECT --to-ports {port}")
    for ns in (CLI, SRV_NS):
        sh(f"nsenter --net=/run/netns/{ns} sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=1", check=False)


def certs(ctx):
    d = ctx.work + "/certs"
    if os.path.exists(d + "/server/both.pem"):
        return
    sh(f"""set -e; mkdir -p {d}/ca {d}/client {d}/server; cd {d}
openssl ecparam -name prime256v1 -genkey -noout -out ca/key.pem
openssl req -x509 -new -key ca/key.pem -subj /CN=mesh-ca -days 3650 -out ca/ca.pem -addext basicConstraints=critical,CA:TRUE
for w in client server; do
  openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out $w/key.pem
  openssl req -new -key $w/key.pem -subj /CN=$w -out $w/csr.pem
  printf "subjectAltName=DNS:{P.SNI},URI:spiffe://cluster.local/ns/default/sa/$w\\nextendedKeyUsage=serverAuth,clientAuth\\nbasicConstraints=CA:FALSE\\n" > $w/ext
  openssl x509 -req -in $w/csr.pem -CA ca/ca.pem -CAkey ca/key.pem -CAcreateserial -days 3650 -extfile $w/ext -out $w/cert.pem
  cp ca/ca.pem $w/ca.pem; cat $w/cert.pem $w/key.pem > $w/both.pem
done; chmod -R a+rX .; chmod a+r */*.pem""")


class Proc:
    def __init__(self, argv, env=None, log=None):
        e = dict(os.environ)
        e.update(env or {})
        out = open(log, "ab") if log else subprocess.DEVNULL
        self.p = subprocess.Popen(argv, env=e, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.pid = self.p.pid

    def tree(self):
        pids, todo = [], [self.pid]
        while todo:
            p = todo.pop()
            pids.append(p)
            try:
                with open(f"/proc/{p}/task/{p}/children") as f:
                    todo += [int(x) for x in f.read().split()]
            except OSError:
                pass
        return pids

    def cpu(self):
        t = 0
        for p in self.tree():
            try:
                with open(f"/proc/{p}/stat") as f:
                    f = f.read().rsplit(")", 1)[1].split()
                t += int(f[11]) + int(f[12])
            except OSError:
                pass
        return t / TICK

    def rss(self):
        kb = 0
        for p in self.tree():
            try:
                with open(f"/proc/{p}/status") as f:
                    kb += int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
            except (OSError, AttributeError):
                pass
        return kb / 1024

    def stop(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
            try:
                self.p.wait(1.5)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()


def upstream(ctx):
    """The servers behind every peer, on the load CPU: nginx (HTTP/1.1), nghttpd (h2c, with a grpc-status
    trailer; answers only once the request body is complete), iperf3 (bulk)."""
    d = ctx.work + "/upstream"
    os.makedirs(d + "/www", exist_ok=True)
    for name, n in (("1k", 1024), ("64k", 65536), ("grpc", 128)):
        with open(f"{d}/www/{name}", "w") as f:
            f.write("x" * n)
    server = lambda lst: f"""
  server {{ listen {lst} backlog=4096; root {d}/www; location / {{ }} }}"""
    with open(d + "/nginx.conf", "w") as f:
        f.write(f"""daemon off; master_process off; worker_processes 1; pid {d}/pid; error_log {d}/err error;
events {{ worker_connections 20000; }}
http {{ access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; default_type application/octet-stream;
  open_file_cache max=100 inactive=1h; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
{server(P.H1)}{server(P.TCPH)}{"".join(server(p) for p in weft.EIGHT)}
}}
""")
    nghttpd = lambda port: Proc(in_ns(SRV_NS, ["nghttpd", "--no-tls", "-n1", "-m", "1024", "--trailer", "grpc-status: 0", "-d", d + "/www", str(port)], LOAD_CPU))
    return [Proc(in_ns(SRV_NS, ["nginx", "-c", d + "/nginx.conf", "-e", d + "/err"], LOAD_CPU), log=d + "/log"),
            nghttpd(P.H2), *(nghttpd(p) for p in weft.EIGHT_H2),
            Proc(in_ns(SRV_NS, ["iperf3", "-s", "-p", str(P.BULK)], LOAD_CPU))]


# ---------------------------------------------------------------- measuring

def cpu_lines():
    out = {}
    with open("/proc/stat") as f:
        for line in f:
            if line.startswith("cpu"):
                v = line.split()
                n = [int(x) for x in v[1:9]]
                out[v[0]] = ((n[0] + n[1] + n[2] + n[5] + n[6]) / TICK, n[7] / TICK)
    return out


def busy_fraction(seconds):
    a = cpu_lines()["cpu"]
    time.sleep(seconds)
    b = cpu_lines()["cpu"]
    return (b[0] - a[0] + b[1] - a[1]) / seconds


def wait_quiet(limit, threshold=0.15):
    """Waits until the machine, our idle sidecars included, uses less than `threshold` of one core."""
    t0 = time.time()
    while True:
        f = busy_fraction(0.5)
        if f < threshold or time.time() - t0 > limit:
            return f
        time.sleep(2)


class Window:
    """CPU of the sidecars, of each core, and of everything that is not ours, over a `with` block."""

    def __init__(self, side, others):
        self.side, self.others = side, others

    def __enter__(self):
        self.t = time.time()
        self.s0 = {k: p.cpu() for k, p in self.side.items()}
        self.o0 = sum(p.cpu() for p in self.others)
        r = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.c0 = r.ru_utime + r.ru_stime
        r = resource.getrusage(resource.RUSAGE_SELF)
        self.m0 = r.ru_utime + r.ru_stime
        self.l0 = cpu_lines()
        return self

    def __exit__(self, *a):
        w = time.time() - self.t
        l1 = cpu_lines()
        self.cpu = {k: p.cpu() - self.s0[k] for k, p in self.side.items()}
        own = sum(self.cpu.values()) + sum(p.cpu() for p in self.others) - self.o0
        r = resource.getrusage(resource.RUSAGE_CHILDREN)
        load = r.ru_utime + r.ru_stime - self.c0
        r = resource.getrusage(resource.RUSAGE_SELF)
        own += load + r.ru_utime + r.ru_stime - self.m0
        busy = l1["cpu"][0] - self.l0["cpu"][0]
        steal = l1["cpu"][1] - self.l0["cpu"][1]
        self.info = {
            "wall": round(w, 2), "loadgen_cpu": round(load, 2),
            "core_load": round((l1["cpu" + LOAD_CPU][0] - self.l0["cpu" + LOAD_CPU][0]) / w, 2),
            "core_proxy": round((l1["cpu" + PROXY_CPU][0] - self.l0["cpu" + PROXY_CPU][0]) / w, 2),
            "foreign": round(max(0.0, busy - own) / w, 3), "steal": round(steal / w, 3),
        }


def client(argv, timeout=60, fifo=False):
    r = subprocess.run(in_ns(CLI, (["chrt", "-f", "10"] if fifo else []) + argv, LOAD_CPU), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    if r.returncode:
        raise RuntimeError(f"{argv[0]}: {r.stderr[-300:]} {r.stdout[-300:]}")
    return r.stdout


def url(port, path, host=P.VIP):
    return f"http://{host}:{port}{path}"


def wrk(port, path, conns, secs, close=False, host=P.VIP):
    argv = ["wrk", "-t1", f"-c{conns}", f"-d{secs}s"] + (["-H", "Connection: close"] if close else []) + [url(port, path, host)]
    out = client(argv)
    n = int(re.search(r"(\d+) requests in", out).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    err = re.search(r"Socket errors: (.*)", out)
    return {"n": n, "rps": rate, "bad": int(bad.group(1)) if bad else 0, "err": err.group(1) if err else ""}


def h2load(ctx, secs, host=P.VIP):
    body = ctx.work + "/body"
    if not os.path.exists(body):
        with open(body, "w") as f:
            f.write("z" * 128)
    out = client(["h2load", "-t1", "-c8", "-m16", f"-D{secs}", "-d", body, url(P.H2, "/grpc", host)])
    m = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", out)
    rate = float(re.search(r"finished in [^,]+, ([\d.]+) req/s", out).group(1))
    return {"n": int(m.group(2)), "rps": rate, "bad": int(m.group(4)), "err": ""}


def oha(ctx, port, path, rate, conns, secs, h2=False):
    argv = [ctx.tool("oha"), "-q", str(rate), "-z", f"{secs}s", "-c", str(conns), "--latency-correction",
            "--no-tui", "--output-format", "json"]
    if h2:
        argv += ["--http2", "-p", "4", "-m", "POST", "-d", "z" * 128]
    j = json.loads(client(argv + [url(port, path)], fifo=FIFO))
    lp = j["latencyPercentiles"]
    codes = j.get("statusCodeDistribution", {})
    n = sum(codes.values())
    us = lambda k: round(lp[k] * 1e6, 1) if lp.get(k) is not None else None
    return {"n": n, "rps": j["summary"]["requestsPerSec"], "bad": n - codes.get("200", 0), "err": "",
            "p50": us("p50"), "p90": us("p90"), "p99": us("p99"), "p999": us("p99.9")}


def bulk(secs, reverse):
    out = json.loads(client(["iperf3", "-c", P.VIP, "-p", str(P.BULK), "-t", str(secs), "-J"] + (["-R"] if reverse else [])))
    b = out["end"]["sum_received"]
    return {"n": b["bytes"] / 1e9 * 1000, "gbps": b["bits_per_second"] / 1e9, "bad": 0, "err": ""}


def cases(ctx, a):
    s = a.seconds
    return {
        "sat_h1_1k": ("h1", lambda: wrk(P.H1, "/1k", 32, s)),
        "sat_h1_64k": ("h1", lambda: wrk(P.H1, "/64k", 32, s)),
        "lat_h1_1k": ("h1", lambda: oha(ctx, P.H1, "/1k", a.rate, 32, s + 6)),
        "newconn_h1": ("h1", lambda: wrk(P.H1, "/1k", 16, s, close=True)),
        "sat_h2": ("h2", lambda: h2load(ctx, s)),
        "sat_h1_many": ("many", lambda: wrk(P.H1, "/1k", 32, s, host=P.MANY)),
        "sat_h2_many": ("many", lambda: h2load(ctx, s, host=P.MANY_H2)),
        "lat_h2": ("h2", lambda: oha(ctx, P.H2, "/grpc", a.rate, 8, s + 6, h2=True)),
        "newconn_mtls": ("tcp", lambda: wrk(P.TCPH, "/1k", 16, s, close=True)),
        "bulk_up": ("tcp", lambda: bulk(s, False)),
        "bulk_down": ("tcp", lambda: bulk(s, True)),
    }


def schedule(procs, fifo):
    """Real-time scheduling for the latency cases (far from saturation), so that whatever else runs on the
    machine is preempted at once; back to normal for the others."""
    if not FIFO:
        return
    for p in procs:
        for pid in p.tree():
            try:
                for tid in os.listdir(f"/proc/{pid}/task"):
                    os.sched_setscheduler(int(tid), os.SCHED_FIFO if fifo else os.SCHED_OTHER, os.sched_param(10 if fifo else 0))
            except OSError:
                pass


class Run:
    def __init__(self, ctx, args):
        self.ctx, self.a = ctx, args
        self.results = open(args.results, "a")
        self.servers = []

    def emit(self, **kw):
        kw["t"] = round(time.time())
        self.results.write(json.dumps(kw) + "\n")
        self.results.flush()
        if not self.a.quiet:
            print(" ".join(f"{k}={v}" for k, v in kw.items() if k != "t"), flush=True)

    def start(self, peer, side, mode):
        argv, env = peer.command(side, mode)
        ns = CLI if side == "out" else SRV_NS
        return Proc(in_ns(ns, argv, PROXY_CPU, UID), env,
                    os.path.join(peer.dir, f"{side}-{mode}.log"))

    def start_timed(self, peer, mode):
        """Starts the outbound sidecar while a client is polling already; milliseconds to the first 200."""
        w = subprocess.Popen(in_ns(CLI, [sys.executable, HERE + "/probe.py", "wait", P.VIP, str(P.H1), "/1k", "20"], LOAD_CPU),
                             stdout=subprocess.PIPE, text=True)
        w.stdout.readline()
        t0 = time.monotonic()
        out = self.start(peer, "out", mode)
        line = w.stdout.readline().strip()
        w.wait()
        if w.returncode:
            out.stop()
            raise RuntimeError("no answer within 20 s")
        return out, (float(line) - t0) * 1e3

    def on_node(self, argv, log):
        """A program of a control plane: on the load CPU, outside the pods."""
        return Proc(["nice", "-n", NICE, "taskset", "-c", LOAD_CPU] + argv, log=log)

    def one(self, rnd, peer, mode):
        side = {}
        redirect(peer, mode == "pair")
        try:
            peer.prepare(self.on_node)
            if peer.name != "none":
                if mode == "pair":
                    side["in"] = self.start(peer, "in", mode)
                    time.sleep(2.0)
                wait_quiet(self.a.wait)
                side["out"], ms = self.start_timed(peer, mode)
                self.emit(round=rnd, peer=peer.name, mode=mode, case="first200", ms=round(ms, 1))
                # idle is what is left when the start is over: Weft lets the code of its start go after 2 s, and Envoy's allocator gives back after a while, too
                time.sleep(5)
                self.emit(round=rnd, peer=peer.name, mode=mode, case="rss_idle",
                          **{k: round(p.rss(), 1) for k, p in side.items()})
            for name, (need, fn) in cases(self.ctx, self.a).items():
                if need not in peer.cases or (self.a.cases and name not in self.a.cases):
                    continue
                if mode == "onehop" and name not in ("sat_h1_1k", "lat_h1_1k"):
                    continue
                if name.startswith("sat_"):
                    warm = argparse.Namespace(**{**vars(self.a), "seconds": 1})
                    try:
                        cases(self.ctx, warm)[name][1]()
                    except Exception:
                        pass  # the measured run will say so
                for _ in range(1 + self.a.retries):
                    quiet = wait_quiet(self.a.wait)
                    schedule(list(side.values()) + self.servers, name.startswith("lat_"))
                    try:
                        with Window(side, self.servers) as w:
                            r = fn()
                    except Exception as e:  # a peer that cannot do a case must not end the run
                        self.emit(round=rnd, peer=peer.name, mode=mode, case=name, failed=str(e)[-300:])
                        break
                    n = r["n"] or 1
                    cpu = {f"cpu_{k}_us": round(v * 1e6 / n, 2) for k, v in w.cpu.items()}
                    cpu["cpu_us"] = round(sum(w.cpu.values()) * 1e6 / n, 2)
                    noisy = w.info["foreign"] > self.a.noise
                    self.emit(round=rnd, peer=peer.name, mode=mode, case=name, **r, **cpu, **w.info, quiet=round(quiet, 2), noisy=noisy)
                    if not noisy:
                        break
            schedule(list(side.values()) + self.servers, False)
            if mode == "pair" and side and "h1" in peer.cases and (not self.a.cases or "rss_1000" in self.a.cases):
                h = subprocess.Popen(in_ns(CLI, [sys.executable, HERE + "/probe.py", "hold", P.VIP, str(P.H1), "/1k", "1000", "3"], LOAD_CPU),
                                     stdout=subprocess.PIPE, text=True)
                line = h.stdout.readline().strip()
                time.sleep(1)
                self.emit(round=rnd, peer=peer.name, mode=mode, case="rss_1000", held=line,
                          **{k: round(p.rss(), 1) for k, p in side.items()})
                h.wait()
        except Exception as e:
            self.emit(round=rnd, peer=peer.name, mode=mode, case="run", failed=str(e)[-500:])
        finally:
            for p in side.values():
                p.stop()
            peer.cleanup()

    def conditions(self, peers):
        """What was measured, where: the first line of the results."""
        cpu = re.search(r"model name\s*: (.*)", sh("cat /proc/cpuinfo"))
        commit = sh(f"git -C {HERE} describe --always --dirty", check=False).strip()
        self.emit(case="conditions", kernel=platform.release(), cpu=cpu.group(1) if cpu else platform.machine(), cores=os.cpu_count(), commit=commit,
                  rounds=self.a.rounds, seconds=self.a.seconds, rate=self.a.rate, noise=self.a.noise,
                  versions={p.name: v for p in peers if p.binary() and (v := p.version())}, notes={p.name: p.note for p in peers})

    def go(self, peers):
        self.conditions(peers)
        certs(self.ctx)
        net_up()
        self.servers = upstream(self.ctx)
        time.sleep(1)
        try:
            for rnd in range(self.a.first_round, self.a.first_round + self.a.rounds):
                k = (rnd - 1) % max(1, len(peers))
                for peer in peers[k:] + peers[:k]:
                    self.one(rnd, peer, "pair")
                    if "onehop" in peer.cases and not self.a.no_onehop:
                        self.one(rnd, peer, "onehop")
        finally:
            for s in self.servers:
                s.stop()
            net_down()


# ---------------------------------------------------------------- table

def priority():
    """Own session, and the scheduler's autogroup of it raised, so that `nice` counts across sessions."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the `finally` clauses clean up
    try:
        os.setsid()
    except OSError:
        pass
    try:
        with open("/proc/self/autogroup", "w") as f:
            f.write(NICE)
    except OSError:
        pass


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    sub = ap.add_subparsers(dest="cmd", required=True)
    r = sub.add_parser("run", help="measure and print the table")
    r.add_argument("--peers", help="comma-separated; default: every one available")
    r.add_argument("--cases", type=lambda s: s.split(","), help="comma-separated case names")
    r.add_argument("--rounds", type=int, default=3)
    r.add_argument("--first-round", type=int, default=1, help="number of the first round, when adding to a results file")
    r.add_argument("--seconds", type=int, default=6)
    r.add_argument("--rate", type=int, default=1000, help="requests per second of the latency cases")
    r.add_argument("--wait", type=float, default=120, help="longest wait for a quiet machine, seconds")
    r.add_argument("--noise", type=float, default=0.15, help="foreign CPU (cores) above which a sample is repeated")
    r.add_argument("--retries", type=int, default=1)
    r.add_argument("--no-onehop", action="store_true")
    r.add_argument("--quiet", action="store_true")
    r.add_argument("--results", default=None)
    y = sub.add_parser("syscalls", help="system calls per request (strace -c) and CPU profile (perf) of each peer")
    y.add_argument("--peers", default="envoy,nginx")
    y.add_argument("--rate", type=int, default=1000)
    y.add_argument("--results", default=None)
    f = sub.add_parser("profile", help="where the CPU and the memory of Weft's sidecars go: profile.json and one text file for each case")
    f.add_argument("--cases", type=lambda s: s.split(","), default=["sat_h1_1k", "sat_h1_64k", "sat_h2"])
    f.add_argument("--seconds", type=int, default=8)
    f.add_argument("--rate", type=int, default=1000)
    f.add_argument("--results", default=os.devnull)
    f.add_argument("--wait", type=float, default=2)
    sub.add_parser("sizes", help="versions and binary sizes of the peers")
    sub.add_parser("certs", help="make the test certificates")
    sub.add_parser("down", help="remove the namespaces")
    a = ap.parse_args()
    ctx = Ctx()
    if a.cmd == "down":
        return net_down()
    if a.cmd == "certs":
        return certs(ctx)
    avail = []
    for c in P.ALL:
        p = c(ctx)
        b = p.binary()
        if c is P.NoProxy or (b and os.path.exists(b)):
            avail.append(p)
    if a.cmd == "sizes":
        for p in avail:
            if p.binary():
                print(json.dumps({"peer": p.name, "version": p.version(), "MB": round(os.path.getsize(p.binary()) / 1e6, 1), "note": p.note}))
        return None
    if a.cmd == "profile":
        priority()
        return profile_pair.go(sys.modules[__name__], ctx, a)
    if a.peers:
        want = a.peers.split(",")
        avail = [p for n in want for p in avail if p.name == n]
    a.results = a.results or os.path.join(ctx.work, f"results-{int(time.time())}.jsonl")
    print("peers:", ", ".join(p.name for p in avail), "| results:", a.results, flush=True)
    priority()
    if a.cmd == "syscalls":
        a.quiet = False
        return profile_pair.syscalls(sys.modules[__name__], ctx, a, avail)
    Run(ctx, a).go(avail)
    print()
    report.finish(a.results)
    return None


if __name__ == "__main__":
    sys.exit(main())
