#!/usr/bin/env python3
"""Runs the mesh tests of the official Gateway API conformance suite against Weft on a cluster of its own (tests/cluster), twice: as the suite asks, with
the report, and with 20 right answers in a row, since some tests pass by chance with no mesh at all at the suite's three. Every test whose features
include Mesh must run and pass. The claims are those that the mesh itself publishes in the status of XMesh `weft`.

    mesh.py                          both runs; the cluster is made for them and ended
    mesh.py --run MeshBasic          one test (repeatable), 20 in a row, no report
    mesh.py --only strict            one of the runs: report or strict
    mesh.py --claim-all              claim by flags, not by XMesh: while that status is not written yet
    mesh.py --keep                   leave the cluster up; the next run with --as-is uses it as it stands
    mesh.py ... -- --debug           what follows goes to the suite
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import results

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROFILES = "MESH-HTTP,MESH-GRPC"
# All that a mesh can claim at v1.7.0: the nine extended features of the mesh profiles, and the features of HTTPRoute that mesh tests outside
# every profile need.
FEATURES = [
    "MeshClusterIPMatching", "MeshConsumerRoute", "MeshHTTPRouteBackendRequestHeaderModification", "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching", "MeshHTTPRouteRedirectPath", "MeshHTTPRouteRedirectPort", "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect", "HTTPRoute303RedirectStatusCode", "HTTPRoute307RedirectStatusCode", "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort", "HTTPRouteResponseHeaderModification",
]  # fmt: skip
INJECT = "weft.dev/inject=enabled"


def say(text):
    print(text, flush=True)


def version():
    return re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)


class Cluster:
    """tests/cluster/cluster with a name."""

    def __init__(self, name):
        self.name = name
        self.env = {**os.environ, "WEFT_CLUSTER": name}
        self.program = str(ROOT / "tests/cluster/cluster")

    def do(self, *words):
        subprocess.run([self.program, *words], env=self.env, check=True)

    def ask(self, *words):
        """Output of a command in the node's network, for logs: never fails."""
        done = subprocess.run([self.program, "enter", *words], env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout

    def running(self):
        return Path(f"/tmp/weft-cluster/{self.name}/ready").exists()


def suite_flags(title, options, report):
    flags = [f"--conformance-profiles={PROFILES}", f"--namespace-labels={INJECT}"]
    # An empty class: a mesh needs none, and the suite would look for one of its default name.
    flags += ["--gateway-class=", "--mesh-name=weft"]
    if options.claim_all:
        flags.append("--supported-features=" + ",".join(FEATURES))
    if title == "report":
        flags += [
            f"--report-output={report}", "--organization=weft", "--project=weft", "--url=https://weft.dev",
            f"--version=v{version()}", "--contact=https://weft.dev",
        ]  # fmt: skip
    else:
        flags.append(f"--in-a-row={options.in_a_row}")
    return flags


def run_suite(cluster, program, title, options, log, report):
    """One run: (results, exit status). Prints each mesh test as it ends."""
    tests = "TestConformance" + (f"/^({'|'.join(options.run)})$" if options.run else "")
    command = [cluster.program, "enter", program, "-test.v", f"-test.run={tests}", "-test.timeout=60m", "-test.parallel=8",
               *suite_flags(title, options, report), *options.suite]  # fmt: skip
    say(f"\n== conformance, {title}: {' '.join(command[3:])}\n   log: {log}")
    lines = []
    with open(log, "w") as out, subprocess.Popen(
        command, env=cluster.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    ) as process:
        for line in process.stdout:
            out.write(line)
            lines.append(line)
            if (end := results.ended(line)) and "/" not in end[0] and end[1] != "SKIP":
                say(f"   {end[1].lower():4} {end[0]} ({end[2]:.1f} s)")
    return results.results(lines), process.returncode


def diagnose(cluster, folder):
    """What a person would look at first after a failure, into a file."""
    path = folder / "cluster.txt"
    with open(path, "w") as out:
        for words in (
            ["kubectl", "get", "pods", "-A", "-o", "wide"],
            ["kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp"],
            ["kubectl", "get", "httproutes,grpcroutes,xmeshes,gatewayclasses", "-A", "-o", "yaml"],
            *(["kubectl", "-n", "weft-system", "logs", f"deploy/weft-{c}", "--tail=300"] for c in ("controller", "ca", "injector")),
        ):
            out.write(f"\n$ {' '.join(words)}\n{cluster.ask(*words)}")
    say(f"the cluster at the end: {path}")


def main(args):
    own, suite = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", "-run", action="append", default=[], metavar="TEST", help="only this test; repeatable")
    parser.add_argument("--only", choices=["report", "strict"], help="one of the two runs")
    parser.add_argument("--in-a-row", type=int, default=20, help="right answers in a row in the strict run")
    parser.add_argument("--claim-all", action="store_true", help="claim every feature by flags")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument("--as-is", action="store_true", help="use the running cluster without building or installing anything")
    parser.add_argument("--report", type=Path, default=ROOT / f"docs/conformance/experimental-v{version()}-default-report.yaml", help="where the report goes")
    options = parser.parse_args(own)
    if options.run and options.only == "report":
        parser.error("--run with --only report: the report of a part of the suite is no report")
    options.suite = suite
    titles = [options.only] if options.only else ["strict"] if options.run else ["report", "strict"]

    kit = Path(subprocess.run([HERE / "build.sh"], check=True, text=True, stdout=subprocess.PIPE).stdout.strip())
    program = str(kit / "conformance.test")
    listed = subprocess.run([program, "-test.v", "-test.run=TestRegistered"], text=True, check=True, stdout=subprocess.PIPE).stdout
    wanted = results.registered(listed)
    if len(wanted) != results.MESH_TESTS:
        sys.exit(f"conformance: the suite has {len(wanted)} mesh tests, {results.MESH_TESTS} were expected")
    if unknown := [t for t in options.run if t not in wanted]:
        sys.exit(f"conformance: {', '.join(unknown)}: no such mesh test; there are\n  " + "\n  ".join(wanted))
    wanted = [t for t in wanted if t in options.run] or wanted

    cluster = Cluster(os.environ.get("WEFT_CLUSTER", "weft-conformance"))
    found_running = cluster.running()
    if options.as_is and not found_running:
        sys.exit(f"conformance: cluster {cluster.name} does not run; leave out --as-is")
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "conformance"
    folder.mkdir(parents=True, exist_ok=True)
    options.report = options.report.absolute()
    options.report.parent.mkdir(parents=True, exist_ok=True)
    runs, problems = {}, []
    try:
        if not options.as_is:
            for words in (["up"], ["images"], ["load", *map(str, sorted((kit / "images").glob("*.tar")))], ["crds"], ["install"]):
                cluster.do(*words)
        for title in titles:
            name = title if title == "report" else f"{options.in_a_row} in a row"
            runs[name], status = run_suite(cluster, program, title, options, folder / f"{title}.log", options.report)
            problems += [f"{name}: {p}" for p in results.judge(wanted, runs[name], status)]
        if problems:
            diagnose(cluster, folder)
    finally:
        if not (options.keep or options.as_is or found_running):
            cluster.do("down")
    say("\n" + results.table(wanted, runs))
    for problem in problems:
        say(f"conformance: {problem}")
    say("conformance: " + ("FAILED" if problems else "all mesh tests pass, none skipped"))
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as e:
        sys.exit(f"conformance: {' '.join(map(str, e.cmd))} ended with status {e.returncode}")
