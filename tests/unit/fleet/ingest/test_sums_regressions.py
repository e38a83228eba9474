"""What a device claims of itself never outgrows what the store can hold."""

from __future__ import annotations

import json

from edgekit.fleet.ingest.sums import Sums, read_sums
from edgekit.wire.strict import MAX_INTEGER


def test_the_largest_numbers_of_a_whole_batch_can_be_stored():
    sums = Sums()
    for _ in range(4096):
        sums.add_vitals({"rss_bytes": MAX_INTEGER, "disk_free_bytes": -MAX_INTEGER})
    count, total, most = json.loads(sums.vitals_text())["rss_bytes"]
    assert (count, total, most) == (4096, 4096 * float(MAX_INTEGER), float(MAX_INTEGER))
    again = read_sums(4096, 0, 0, 0, sums.latency_text(), sums.vitals_text())
    again.add_vitals({"rss_bytes": 1})
    assert again.vitals["rss_bytes"][0] == 4097
