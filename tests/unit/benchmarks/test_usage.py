"""Requests as the API server counts them."""

from __future__ import annotations

from benchmarks.usage import count_requests

METRICS = """\
# TYPE apiserver_request_total counter
apiserver_request_total{code="201",resource="pods",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="409",resource="pods",subresource="",verb="POST",version="v1"} 1
apiserver_request_total{code="200",resource="pods",subresource="status",verb="PATCH"} 2e+00
apiserver_request_total{code="200",resource="pods",subresource="",verb="WATCH"} 7
apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT"} 9
apiserver_request_total{code="200",resource="",subresource="/healthz",verb="GET"} 9
apiserver_request_sli_duration_seconds_count{resource="pods",verb="POST"} 9
"""


def test_requests_are_counted_by_verb_and_resource_without_watches_and_leases() -> None:
    assert count_requests(METRICS) == {"POST pods": 4, "PATCH pods/status": 2}
