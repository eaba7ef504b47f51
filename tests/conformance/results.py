"""Reading what `conformance.test -test.v` prints, and judging it. Pure: text in, verdicts out."""

import re
from dataclasses import dataclass, field

# v1.7.0 has this many tests with the feature Mesh; another number means another suite, and the claim "all of them" must be looked at again
MESH_TESTS = 23

_REGISTERED = re.compile(r"^\s+conformance_test\.go:\d+: (\S+) \[([^\]]*)\]", re.M)
_RESULT = re.compile(r"^\s*--- (PASS|FAIL|SKIP): TestConformance/(\S+) \(([\d.]+)s\)\s*$")
_RUN = re.compile(r"^=== RUN\s+TestConformance/([^/\s]+)\s*$")


@dataclass
class Result:
    """One test of the suite. `subtests` holds those that failed or were skipped, with what happened."""

    outcome: str
    seconds: float
    subtests: dict = field(default_factory=dict)


def registered(text):
    """Names of the mesh tests, in the suite's order, from the output of TestRegistered."""
    return [name for name, features in _REGISTERED.findall(text) if "Mesh" in features.split()]


def started(line):
    """The test that a line of output begins, or None."""
    m = _RUN.match(line)
    return m and m.group(1)


def ended(line):
    """(name, outcome, seconds) of the test that a line ends, or None. Subtests have a slash in their name."""
    m = _RESULT.match(line)
    return m and (m.group(2), m.group(1), float(m.group(3)))


def results(lines):
    """Results by test name."""
    found, subtests = {}, {}
    for line in lines:
        if not (end := ended(line)):
            continue
        name, outcome, seconds = end
        test, slash, sub = name.partition("/")
        if not slash:
            found[test] = Result(outcome, seconds)
        elif outcome != "PASS":
            subtests.setdefault(test, {})[sub] = outcome
    for test, subs in subtests.items():
        if test in found:
            # a parent fails with its child: the innermost names say it all
            found[test].subtests = {s: o for s, o in subs.items() if not any(other.startswith(s + "/") for other in subs)}
    return found


def judge(wanted, found, status):
    """What is wrong with a run: one sentence each; an empty list is a pass. `status` is the exit status of the suite."""
    problems = []
    for name in wanted:
        result = found.get(name)
        if result is None:
            problems.append(f"{name} did not run")
            continue
        if result.outcome == "SKIP":
            problems.append(f"{name} was skipped: a feature that it needs is not claimed")
        elif result.outcome == "FAIL":
            problems.append(f"{name} failed" + ("" if not result.subtests else ": " + "; ".join(sorted(result.subtests))))
        else:
            problems += [f"{name}/{sub} was skipped" for sub, outcome in sorted(result.subtests.items()) if outcome == "SKIP"]
    for name, result in found.items():
        if result.outcome == "FAIL" and name not in wanted:
            problems.append(f"{name} failed, though it is no mesh test")
    if status != 0 and not problems:
        problems.append(f"the suite ended with status {status}: its setup or clean-up failed")
    return problems


def table(wanted, runs):
    """A line for each test; `runs` maps a run's title to its results."""
    width = max([len(n) for n in wanted] + [4])
    column = max([len(t) for t in runs] + [16]) + 2
    word = {"PASS": "pass", "FAIL": "FAIL", "SKIP": "SKIPPED"}

    def cell(found, name):
        r = found.get(name)
        return "did not run" if r is None else f"{word[r.outcome]:<7} {r.seconds:6.1f} s"

    lines = [f"{'test':<{width}}  " + "".join(f"{title:<{column}}" for title in runs)]
    lines += [f"{name:<{width}}  " + "".join(f"{cell(found, name):<{column}}" for found in runs.values()) for name in wanted]
    totals = [f"{sum(found[n].outcome == 'PASS' for n in wanted if n in found)} of {len(wanted)}" for found in runs.values()]
    lines.append(f"{'passed':<{width}}  " + "".join(f"{t:<{column}}" for t in totals))
    return "\n".join(line.rstrip() for line in lines)
