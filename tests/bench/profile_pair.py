"""Where a pair of sidecars spends its CPU (perf), its system calls (strace) and its memory (smaps). Part of bench.py."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import peers as P

SHOWN = 40


@contextmanager
def pair(run, peer):
    """Both sidecars of `peer`, running."""
    side = {}
    B = sys.modules[type(run).__module__]
    B.redirect(peer, True)
    try:
        peer.prepare(run.on_node)
        side["in"] = run.start(peer, "in", "pair")
        time.sleep(2)
        side["out"], _ = run.start_timed(peer, "pair")
        yield side
    finally:
        for p in side.values():
            p.stop()
        peer.cleanup()


@contextmanager
def network(B, run):
    B.certs(run.ctx)
    B.net_up()
    run.servers = B.upstream(run.ctx)
    time.sleep(1)
    try:
        yield
    finally:
        for s in run.servers:
            s.stop()
        B.net_down()


def record(B, pids, data, load):
    """perf samples of `pids` while `load` runs. cpu-clock: virtual machines have no hardware counters."""
    pf = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-o", data, "-p", ",".join(map(str, pids))],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        r = load()
    finally:
        pf.send_signal(signal.SIGINT)
        pf.wait()
    return r, B.sh(f"perf report -i {data} --no-children --sort dso,symbol --stdio -g none 2>/dev/null | grep -v '^#' | grep -v '^$'", check=False)


def symbols(text):
    """(share of the kernel, the heaviest symbols) of a perf report."""
    kernel, top = 0.0, []
    for line in text.splitlines():
        m = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[(.)\]\s+(.*)", line)
        if not m:
            continue
        pct = float(m.group(1))
        if m.group(3) == "k":
            kernel += pct
        if len(top) < SHOWN:
            # without the hash of the mangling and the parameters of generics
            name = re.sub(r"::h[0-9a-f]{16}$", "", m.group(4).strip())
            top.append({"pct": pct, "object": m.group(2), "symbol": name[:100], "kernel": m.group(3) == "k"})
    return {"kernel_pct": round(kernel, 1), "top": top}


def memory(pid):
    """Resident KiB of a process by what it is."""
    kinds = {}
    program = os.readlink(f"/proc/{pid}/exe")
    with open(f"/proc/{pid}/smaps") as f:
        name, flags = "", ""
        for line in f:
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)", line)
            if m:
                flags, name = m.group(3), m.group(5)
                continue
            m = re.match(r"Rss:\s+(\d+) kB", line)
            if not m:
                continue
            if name == program:
                kind = "program: code" if "x" in flags else "program: data" if "w" in flags else "program: constants and relocated"
            elif name == "[heap]":
                kind = "heap of the main thread"
            elif name.startswith("[stack") or name.startswith("[v"):
                kind = "stack of the main thread, vdso"
            elif name:
                kind = "libraries"
            else:
                kind = "anonymous: other threads' heaps and stacks"
            kinds[kind] = kinds.get(kind, 0) + int(m.group(1))
    kinds["all"] = sum(kinds.values())
    return dict(sorted(kinds.items(), key=lambda k: (k[0] == "all", k[0])))


def go(B, ctx, a):
    """`bench.py profile`: profile.json, and one text file for each case and side."""
    a.quiet = True
    run, weft, result = B.Run(ctx, a), P.Weft(ctx), {}
    out = os.path.join(ctx.work, "profile")
    os.makedirs(out, exist_ok=True)
    with network(B, run), pair(run, weft) as side:
        time.sleep(5)
        result["memory"] = {"idle": {k: memory(p.pid) for k, p in side.items()}}
        hold = subprocess.Popen(B.in_ns(B.CLI, [sys.executable, B.HERE + "/probe.py", "hold", P.VIP, str(P.H1), "/1k", "1000", "2"], B.LOAD_CPU),
                                stdout=subprocess.PIPE, text=True)
        hold.stdout.readline()
        time.sleep(1)
        result["memory"]["1,000 connections"] = {k: memory(p.pid) for k, p in side.items()}
        hold.wait()
        for case in a.cases:
            result[case] = {}
            for k, p in side.items():
                _, text = record(B, p.tree(), f"{out}/{case}-{k}.data", B.cases(ctx, a)[case][1])
                result[case][k] = symbols(text)
                with open(f"{out}/{case}-{k}.txt", "w") as f:
                    f.write(text)
    with open(os.path.join(ctx.work, "profile.json"), "w") as f:
        json.dump(result, f, indent=1)
    print(json.dumps(result, indent=1))
    print(f"written: {ctx.work}/profile.json, {out}/*.txt", file=sys.stderr)


def syscalls(B, ctx, a, peers):
    """`bench.py syscalls`: system calls per request of each sidecar (strace -c) at the fixed rate, then where the CPU of the pair goes at saturation."""
    run = B.Run(ctx, a)
    with network(B, run):
        for peer in peers:
            for h2, port, path in ((False, P.H1, "/1k"), (True, P.H2, "/grpc")):
                if not h2 or "h2" in peer.cases:
                    try:
                        with pair(run, peer) as side:
                            calls(B, run, peer, side, port, path, h2)
                    except Exception as e:  # a peer that cannot do a case must not end the run
                        run.emit(peer=peer.name, case="syscalls", failed=str(e)[-300:])


def calls(B, run, peer, side, port, path, h2):
    conns = 8 if h2 else 32
    B.oha(run.ctx, port, path, run.a.rate, conns, 2, h2)
    res = {}
    for k, p in side.items():
        log = os.path.join(peer.dir, f"strace-{k}")
        st = subprocess.Popen(["strace", "-f", "-c", "-S", "calls", "-o", log] + [x for q in p.tree() for x in ("-p", str(q))], stderr=subprocess.DEVNULL)
        time.sleep(0.7)
        r = B.oha(run.ctx, port, path, run.a.rate, conns, 4, h2)
        st.send_signal(signal.SIGINT)
        st.wait()
        counted = {}
        with open(log) as f:
            for line in f:
                m = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
                if m and m.group(2) != "total":
                    counted[m.group(2)] = round(int(m.group(1)) / max(1, r["n"]), 2)
        res[k] = {c: v for c, v in counted.items() if v >= 0.03}
        res[k]["all"] = round(sum(counted.values()), 2)
    run.emit(peer=peer.name, case="syscalls_h2" if h2 else "syscalls_h1", **res)
    load = (lambda: B.h2load(run.ctx, 4)) if h2 else (lambda: B.wrk(port, path, 32, 4))
    _, text = record(B, [q for p in side.values() for q in p.tree()], os.path.join(peer.dir, "perf.data"), load)
    s = symbols(text)
    run.emit(peer=peer.name, case="perf_h2" if h2 else "perf_h1", kernel_pct=s["kernel_pct"], top=[f"{x['pct']:.1f}% {x['object']} {x['symbol'][:60]}" for x in s["top"][:12]])
