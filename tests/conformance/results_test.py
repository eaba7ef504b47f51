import unittest

from results import Result, judge, registered, results, started, table

REGISTERED = """=== RUN   TestRegistered
    conformance_test.go:53: MeshGRPCRouteWeight [Mesh GRPCRoute]
    conformance_test.go:53: MeshHTTPRoute303Redirect [Mesh HTTPRoute HTTPRoute303RedirectStatusCode] provisional
    conformance_test.go:53: MeshBasic [Mesh]
    conformance_test.go:53: HTTPRouteWeight [Gateway HTTPRoute] parallel
    conformance_test.go:53: HTTPRouteMeshlike [Gateway MeshClusterIPMatching]
--- PASS: TestRegistered (0.00s)
"""

RUN = """=== RUN   TestConformance
=== RUN   TestConformance/MeshBasic
=== RUN   TestConformance/MeshBasic/0_request_to_'/'
    apply.go:250: 2026-01-01T00:00:00Z: Creating echo Service
--- FAIL: TestConformance (61.92s)
    --- PASS: TestConformance/MeshBasic (1.30s)
        --- PASS: TestConformance/MeshBasic/0_request_to_'/' (1.20s)
    --- FAIL: TestConformance/MeshGRPCRouteWeight (30.10s)
        --- FAIL: TestConformance/MeshGRPCRouteWeight/Requests (30.00s)
            --- FAIL: TestConformance/MeshGRPCRouteWeight/Requests/split (29.00s)
    --- SKIP: TestConformance/MeshHTTPRoute303Redirect (0.00s)
    --- SKIP: TestConformance/HTTPRouteWeight (0.00s)
FAIL
"""


class Reading(unittest.TestCase):
    def test_mesh_tests_are_those_with_the_feature(self):
        self.assertEqual(registered(REGISTERED), ["MeshGRPCRouteWeight", "MeshHTTPRoute303Redirect", "MeshBasic"])

    def test_results_with_innermost_subtests(self):
        found = results(RUN.splitlines())
        self.assertEqual(found["MeshBasic"], Result("PASS", 1.3))
        self.assertEqual(found["MeshGRPCRouteWeight"], Result("FAIL", 30.1, {"Requests/split": "FAIL"}))
        self.assertEqual(found["HTTPRouteWeight"].outcome, "SKIP")
        self.assertNotIn("TestConformance", found)

    def test_beginning_of_a_test_not_of_its_parts(self):
        self.assertEqual([started(line) for line in RUN.splitlines()[:3]], [None, "MeshBasic", None])


class Judging(unittest.TestCase):
    def test_pass(self):
        self.assertEqual(judge(["MeshBasic"], {"MeshBasic": Result("PASS", 1), "HTTPRouteWeight": Result("SKIP", 0)}, 0), [])

    def test_a_skipped_test_is_no_pass(self):
        self.assertIn("MeshBasic was skipped", judge(["MeshBasic"], {"MeshBasic": Result("SKIP", 0)}, 0)[0])

    def test_a_skipped_subtest_is_no_pass(self):
        self.assertEqual(judge(["A"], {"A": Result("PASS", 1, {"x": "SKIP"})}, 0), ["A/x was skipped"])

    def test_a_test_that_is_missing_is_no_pass(self):
        self.assertEqual(judge(["A"], {}, 0), ["A did not run"])

    def test_failure_names_the_parts(self):
        self.assertEqual(judge(["A"], {"A": Result("FAIL", 1, {"y": "FAIL", "x": "FAIL"})}, 1), ["A failed: x; y"])

    def test_status_counts_though_every_test_passed(self):
        self.assertIn("status 2", judge(["A"], {"A": Result("PASS", 1)}, 2)[0])

    def test_foreign_failures_count(self):
        self.assertIn("no mesh test", judge([], {"B": Result("FAIL", 1)}, 1)[0])


class Table(unittest.TestCase):
    def test_one_line_each(self):
        text = table(["MeshBasic", "MeshGRPCRouteWeight", "MeshPorts"], {"report": results(RUN.splitlines()), "20 in a row": {}})
        lines = text.splitlines()
        self.assertEqual(len(lines), 5)
        self.assertRegex(lines[1], r"^MeshBasic +pass +1\.3 s +did not run$")
        self.assertRegex(lines[2], r"^MeshGRPCRouteWeight +FAIL +30\.1 s +did not run$")
        self.assertRegex(lines[-1], r"^passed +1 of 3 +0 of 3$")


if __name__ == "__main__":
    unittest.main()
