#!/usr/bin/env python3
"""`make bench-small`: instructions and allocations per request of each sidecar (callgrind, user space only), as the difference between a long and a short run, so that
start, handshakes and configuration cancel out; and the time to find a rule in a large table. Prints one JSON object and writes small.json.

Instruction counts do not depend on what else the machine does. They are taken on the AVX2 path of the cipher, since valgrind hides AVX-512."""
import argparse
import json
import os
import re
import subprocess
import sys
import time

import bench as B
import peers as P

SHORT, LONG = 1000, 5000
ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "memalign", "aligned_alloc"}


def totals(path):
    """Instructions and calls of the allocator in a callgrind file."""
    names, instructions, allocations, callee = {}, 0, 0, None
    with open(path) as f:
        for line in f:
            m = re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line)
            if m:
                if m.group(2):
                    names[m.group(1)] = m.group(2)
                callee = names.get(m.group(1)) if line.startswith("cfn=") else None
                continue
            m = re.match(r"calls=(\d+)", line)
            if m and callee and callee.split("@")[0].split("'")[0] in ALLOCATORS:
                allocations += int(m.group(1))
            m = re.match(r"(?:summary|totals): (\d+)", line)
            if m:
                instructions = int(m.group(1))
    return instructions, allocations


class Small:
    def __init__(self):
        self.ctx = B.Ctx()
        self.run = B.Run(self.ctx, argparse.Namespace(results=os.devnull, quiet=True, wait=1))
        self.peer = P.Weft(self.ctx)

    def measure(self, kind, requests):
        """(instructions, allocations) of the outbound and the inbound sidecar over `requests` requests."""
        self.peer.prepare(self.run.on_node)
        procs, files = {}, {}
        try:
            for side, ns in (("in", B.SRV_NS), ("out", B.CLI)):
                files[side] = f"{self.peer.dir}/callgrind-{kind}-{side}-{requests}"
                if os.path.exists(files[side]):
                    os.unlink(files[side])
                argv, env = self.peer.command(side, "pair")
                argv = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={files[side]}"] + argv
                procs[side] = B.Proc(B.in_ns(ns, argv, B.PROXY_CPU, B.UID), env, f"{self.peer.dir}/callgrind-{side}.log")
            out = B.client([sys.executable, B.HERE + "/probe.py", "wait", P.VIP, str(P.H1), "/1k", "120"], timeout=130)
            if "timeout" in out:
                raise RuntimeError("the sidecars under valgrind do not answer")
            body = self.ctx.work + "/body"
            with open(body, "w") as f:
                f.write("z" * 128)
            options = ["--h1", "-c32", "-m1", B.url(P.H1, "/1k")] if kind == "h1" else ["-c8", "-m16", "-d", body, B.url(P.H2, "/grpc")]
            for n in (256, requests):   # warm up, then the run
                out = B.client(["h2load", "-t1", f"-n{n}"] + options, timeout=300)
            if int(re.search(r"(\d+) succeeded", out).group(1)) != requests:
                raise RuntimeError(out)
        finally:
            for p in procs.values():
                p.p.terminate()
            for p in procs.values():
                try:
                    p.p.wait(60)
                except subprocess.TimeoutExpired:
                    p.p.kill()
                    p.p.wait()
            self.peer.cleanup()
        return {side: totals(f) for side, f in files.items()}

    def go(self):
        result = {}
        B.priority()
        B.certs(self.ctx)
        B.net_up()
        servers = B.upstream(self.ctx)
        try:
            B.redirect(self.peer, True)
            time.sleep(1)
            for kind in ("h1", "h2"):
                short, long = self.measure(kind, SHORT), self.measure(kind, LONG)
                n = LONG - SHORT
                row = {}
                for side in ("out", "in"):
                    row[f"instructions_{side}"] = round((long[side][0] - short[side][0]) / n)
                    row[f"allocations_{side}"] = round((long[side][1] - short[side][1]) / n, 2)
                row["instructions_pair"] = row["instructions_out"] + row["instructions_in"]
                result[kind] = row
        finally:
            for s in servers:
                s.stop()
            B.net_down()
        return result


def main():
    result = {"tables": [json.loads(line) for line in sys.argv[1].splitlines()]} if len(sys.argv) > 1 else {}
    if os.geteuid() == 0:
        result.update(Small().go())
    else:
        print("left out: instructions and allocations need root (network namespaces)", file=sys.stderr)
    goals = []
    for t in result.get("tables", []):
        goals.append((f"{t['rules']} rules ({t['table']}): match p99 <= 20 us", t["p99_ns"] <= 20_000))
    if "h2" in result:
        goals.append(("allocations per HTTP/2 request <= 1 per sidecar", max(result["h2"]["allocations_out"], result["h2"]["allocations_in"]) <= 1))
    result["goals"] = {g: ok for g, ok in goals}
    with open(os.path.join(B.Ctx().work, "small.json"), "w") as f:
        json.dump(result, f, indent=1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
