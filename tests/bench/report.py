#!/usr/bin/env python3
"""From measurements to tables, so that no figure is typed by hand.

report.py summary RESULTS.jsonl            prints table and goals, writes RESULTS.summary.json beside it
report.py fill [--doc docs/bench.md]       fills the tables of the page from the newest summary, small.json and profile.json of $WEFTBENCH_DIR

A block of the page begins with `<!-- NAME -->` and ends with `<!-- end -->`; NAME is one of the keys of BLOCKS.
"""
import argparse
import glob
import json
import os
import re
import statistics
import sys

import goals
import peers as P

WORK = os.environ.get("WEFTBENCH_DIR", "/var/tmp/weft-bench")
DOC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/bench.md")

# (mode, case, key, title, format)
COLUMNS = [
    ("pair", "sat_h1_1k", "rps", "HTTP/1 1 KB, requests/s", "{:.0f}"), ("pair", "sat_h1_1k", "cpu_us", "HTTP/1 1 KB, CPU us per request", "{:.1f}"),
    ("pair", "sat_h1_64k", "rps", "HTTP/1 64 KB, requests/s", "{:.0f}"), ("pair", "sat_h1_64k", "cpu_us", "HTTP/1 64 KB, CPU us per request", "{:.1f}"),
    ("pair", "sat_h2", "rps", "HTTP/2 128 B, requests/s", "{:.0f}"), ("pair", "sat_h2", "cpu_us", "HTTP/2 128 B, CPU us per request", "{:.1f}"),
    ("pair", "sat_h1_many", "cpu_us", "HTTP/1 1 KB, 8 endpoints, CPU us per request", "{:.1f}"),
    ("pair", "sat_h2_many", "cpu_us", "HTTP/2 128 B, 8 endpoints, CPU us per request", "{:.1f}"),
    ("pair", "newconn_h1", "rps", "new client connections/s", "{:.0f}"), ("pair", "newconn_h1", "cpu_us", "new client connection, CPU us", "{:.0f}"),
    ("pair", "newconn_mtls", "rps", "new mTLS connections/s", "{:.0f}"), ("pair", "newconn_mtls", "cpu_us", "new mTLS connection, CPU us", "{:.0f}"),
    ("pair", "bulk_up", "gbps", "bulk TCP up, Gbit/s", "{:.2f}"), ("pair", "bulk_down", "gbps", "bulk TCP down, Gbit/s", "{:.2f}"),
    ("pair", "bulk_up", "cpu_us", "bulk TCP up, CPU us per MB", "{:.0f}"), ("pair", "bulk_down", "cpu_us", "bulk TCP down, CPU us per MB", "{:.0f}"),
    ("pair", "lat_h1_1k", "p50", "HTTP/1 p50 us at 1,000/s", "{:.0f}"), ("pair", "lat_h1_1k", "p90", "HTTP/1 p90 us", "{:.0f}"),
    ("pair", "lat_h1_1k", "p99", "HTTP/1 p99 us", "{:.0f}"), ("pair", "lat_h1_1k", "p999", "HTTP/1 p99.9 us", "{:.0f}"),
    ("pair", "lat_h1_1k", "cpu_us", "HTTP/1 CPU us per request at 1,000/s", "{:.0f}"),
    ("pair", "lat_h2", "p50", "HTTP/2 p50 us at 1,000/s", "{:.0f}"), ("pair", "lat_h2", "p99", "HTTP/2 p99 us", "{:.0f}"),
    ("pair", "lat_h2", "p999", "HTTP/2 p99.9 us", "{:.0f}"), ("pair", "lat_h2", "cpu_us", "HTTP/2 CPU us per request at 1,000/s", "{:.0f}"),
    ("pair", "rss_idle", "out", "resident, outbound, idle, MiB", "{:.1f}"), ("pair", "rss_idle", "in", "resident, inbound, idle, MiB", "{:.1f}"),
    ("pair", "rss_1000", "out", "resident, outbound, 1,000 connections, MiB", "{:.1f}"),
    ("pair", "rss_1000", "in", "resident, inbound, 1,000 connections, MiB", "{:.1f}"),
    ("pair", "first200", "ms", "start to first 200, ms", "{:.0f}"),
    ("onehop", "sat_h1_1k", "rps", "one plain hop, requests/s", "{:.0f}"), ("onehop", "sat_h1_1k", "cpu_us", "one plain hop, CPU us per request", "{:.1f}"),
    ("onehop", "lat_h1_1k", "p50", "one plain hop, p50 us", "{:.0f}"), ("onehop", "lat_h1_1k", "p99", "one plain hop, p99 us", "{:.0f}"),
]


def load(path):
    with open(path) as f:
        return [json.loads(x) for x in f if x.strip()]


def clean(rows):
    """Samples that other work on the machine disturbed count only where there are no others."""
    return [r for r in rows if not r.get("noisy")] or rows


def pick(rows, peer, mode, case, key):
    return [r[key] for r in clean([r for r in rows if r.get("peer") == peer and r.get("mode") == mode and r["case"] == case and r.get(key) is not None])]


def rounds(rows, peer, path):
    """{round: median} of a figure named `mode.case.key`."""
    mode, case, key = path.split(".")
    got = {}
    for r in clean([r for r in rows if r.get("peer") == peer and r.get("mode") == mode and r["case"] == case and r.get(key) is not None]):
        got.setdefault(r["round"], []).append(r[key])
    return {n: statistics.median(v) for n, v in got.items()}


def ratios(rows, ours, path, ref, ref_path):
    """Ours divided by the reference, in each round that has both: what the machine did to one it did to the other."""
    a, b = rounds(rows, ours, path), rounds(rows, ref, ref_path)
    return [a[n] / b[n] for n in sorted(a) if b.get(n)]


def summarise(rows, base="envoy", base2="floor"):
    """Table as text, and the summary."""
    names = [c.name for c in P.ALL if any(r.get("peer") == c.name for r in rows)]
    lines = [f"| median [min-max], ratio to {base} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    summary = {"run": next((r for r in rows if r["case"] == "conditions"), {})}
    for mode, case, key, title, fmt in COLUMNS:
        path, cells = f"{mode}.{case}.{key}", []
        for n in names:
            v = pick(rows, n, mode, case, key)
            if not v or (n == "none" and key.startswith("cpu")):
                cells.append("-")
                continue
            got = {"median": statistics.median(v), "min": min(v), "max": max(v), "n": len(v)}
            for b in (base, base2):
                x = ratios(rows, n, path, b, path)
                if x:
                    got["ratio" if b == base else f"ratio_{b}"] = round(statistics.median(x), 3)
            summary.setdefault(n, {})[path] = got
            spread = "" if len(v) == 1 else f" [{fmt.format(min(v))}-{fmt.format(max(v))}]"
            cells.append(fmt.format(got["median"]) + spread + (f" x{got['ratio']:.2f}" if "ratio" in got else ""))
        if any(c != "-" for c in cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    measured = [r for r in rows if "foreign" in r]
    summary["samples"] = {"all": len(measured), "noisy": sum(bool(r.get("noisy")) for r in measured), "failed": sum("failed" in r for r in rows)}
    summary["goals"] = goals.judge(lambda ours, ref, ref_path: ratios(rows, "weft", ours, ref, ref_path) if ref else list(rounds(rows, "weft", ours).values()))
    return "\n".join(lines), summary


def finish(path):
    """The end of a run: prints, and writes the machine-readable file."""
    text, summary = summarise(load(path))
    summary["table"] = text
    out = os.path.splitext(path)[0] + ".summary.json"
    with open(out, "w") as f:
        json.dump(summary, f, indent=1)
    print(text, goals.table(summary["goals"]), f"written: {out}", sep="\n\n")


# ---------------------------------------------------------------- the page

def conditions(s, _small, _profile):
    c, n = s.get("run", {}), s.get("samples", {})
    peers = ", ".join(f"{k} {v}" for k, v in c.get("versions", {}).items())
    return (f"{c.get('cpu', '?')}, {c.get('cores', '?')} cores, Linux {c.get('kernel', '?')}; Weft {c.get('commit', '?')}; {peers}. "
            f"{n.get('all', 0)} samples in {c.get('rounds', '?')} rounds of {c.get('seconds', '?')} s; {n.get('noisy', 0)} were disturbed "
            f"by other work (more than {c.get('noise', '?')} of a core), {n.get('failed', 0)} cases failed.")


def small_table(_s, small, _profile):
    if not small:
        return "not measured"
    lines = ["| | HTTP/1 1 KB | HTTP/2 128 B |", "|---|---|---|"]
    for key, title in (("instructions_out", "instructions per request, outbound"), ("instructions_in", "instructions per request, inbound"),
                       ("instructions_pair", "instructions per request, pair"), ("allocations_out", "allocations per request, outbound"),
                       ("allocations_in", "allocations per request, inbound")):
        lines.append(f"| {title} | " + " | ".join(f"{small.get(k, {}).get(key, '-'):,}" if small.get(k) else "-" for k in ("h1", "h2")) + " |")
    lines += ["", "| rules | table | match p50, ns | p99, ns |", "|---|---|---|---|"]
    lines += [f"| {t['rules']:,} | {t['table']} | {t.get('p50_ns', '-')} | {t['p99_ns']} |" for t in small.get("tables", [])]
    return "\n".join(lines)


def goal_table(s, small, _profile):
    more = [{"goal": g, "against": "absolute", "limit": "", "measured": "", "reached": ok} for g, ok in (small or {}).get("goals", {}).items()]
    return goals.table(s.get("goals", []) + more)


def profile_table(_s, _small, profile):
    if not profile:
        return "not measured"
    lines = []
    for case, sides in profile.items():
        if case == "memory":
            continue
        for side, p in sides.items():
            top = "; ".join(f"{x['pct']:.1f} % `{x['symbol']}`" for x in p["top"][:10])
            lines.append(f"- **{case}, {side}bound**: kernel {p['kernel_pct']:.0f} %; {top}")
    return "\n".join(lines) or "not measured"


def memory_table(_s, _small, profile):
    m = (profile or {}).get("memory")
    if not m:
        return "not measured"
    columns = [(when, side) for when in m for side in m[when]]
    kinds = list(m[columns[0][0]][columns[0][1]])
    lines = ["| KiB resident | " + " | ".join(f"{side}bound, {when}" for when, side in columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [f"| {k} | " + " | ".join(f"{m[w][s].get(k, 0):,}" for w, s in columns) + " |" for k in kinds]
    return "\n".join(lines)


BLOCKS = {"conditions": conditions, "goals": goal_table, "figures": lambda s, _a, _b: s.get("table", "not measured"), "small": small_table,
          "profile": profile_table, "memory": memory_table}


def newest(pattern):
    found = sorted(glob.glob(os.path.join(WORK, pattern)), key=os.path.getmtime)
    return found[-1] if found else None


def read(path):
    if not path or not os.path.exists(path):
        return {}
    with open(path) as f:
        return json.load(f)


def fill(doc, summary, small, profile):
    with open(doc) as f:
        text = f.read()

    def block(m):
        return f"<!-- {m.group(1)} -->\n{BLOCKS[m.group(1)](summary, small, profile)}\n<!-- end -->"

    text, n = re.subn(r"<!-- (%s) -->\n.*?<!-- end -->" % "|".join(BLOCKS), block, text, flags=re.S)
    with open(doc, "w") as f:
        f.write(text)
    print(f"{doc}: {n} tables")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="cmd", required=True)
    t = sub.add_parser("summary")
    t.add_argument("results")
    f = sub.add_parser("fill")
    f.add_argument("--doc", default=DOC)
    f.add_argument("--summary", default=None)
    f.add_argument("--small", default=os.path.join(WORK, "small.json"))
    f.add_argument("--profile", default=os.path.join(WORK, "profile.json"))
    a = ap.parse_args()
    if a.cmd == "summary":
        return finish(a.results)
    return fill(a.doc, read(a.summary or newest("*.summary.json")), read(a.small), read(a.profile))


if __name__ == "__main__":
    sys.exit(main())
