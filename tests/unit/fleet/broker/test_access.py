"""Rights as functions: below its own name alone, and the same that mosquitto's list gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from edgekit.fleet.broker.access import may_hear, may_publish, may_subscribe
from edgekit.fleet.broker.accounts import rights

ROOT = "edgekit/1/lab"
DEVICES = ("cam-1", "cam-2", "cam", "cam-1x", "lab")
PARTS = (".ingest", ".web", ".alerts")
LEAVES = ("telemetry", "ack", "state", "hello", "command", "reply", "desired", "reported",
          "input/a", "output/a", "output/a/b", "state/x", "x", "Telemetry", "")  # fmt: skip
TOPICS = st.builds(
    "{}/{}/{}".format,
    st.sampled_from([ROOT, ROOT, ROOT, "edgekit/1/north", "edgekit/2/lab", "edgekit-alerts", ""]),
    st.sampled_from([*DEVICES, "", "-"]),
    st.sampled_from(LEAVES),
)
LEVELS = st.sampled_from(["+", "edgekit", "1", "lab", "cam-1", "cam-2", "state", "$share", ""])
FILTERS = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(LEVELS, min_size=1, max_size=6) | st.sampled_from([f"{ROOT}/cam-1", ROOT]).map(list),
    st.sampled_from([[], ["#"]]),
) | st.builds("{}/{}/{}".format, st.just(ROOT), LEVELS, st.sampled_from(["#", "+", "state"]))


@given(st.sampled_from([*DEVICES, *PARTS]), TOPICS)
def test_both_brokers_give_the_same_rights(user, topic):
    assert may_publish("lab", user, topic) == listed(user, topic, "write")
    assert may_hear("lab", user, topic) == listed(user, topic, "read")


@given(st.sampled_from(DEVICES), TOPICS, FILTERS)
def test_a_device_hears_nothing_of_another_by_any_filter(user, topic, topic_filter):
    own = topic.startswith(f"{ROOT}/{user}/")
    assert may_hear("lab", user, topic) == own
    assert not may_publish("lab", user, topic) or own
    if may_subscribe("lab", user, topic_filter) and topic_matches_sub(topic_filter, topic):
        assert own, "what it may ask for gives it nothing that it may not hear"


def test_a_device_asks_for_its_own_topics_alone():
    for asked in (f"{ROOT}/cam-1/#", f"{ROOT}/cam-1/input/+", f"{ROOT}/cam-1/command"):
        assert may_subscribe("lab", "cam-1", asked)
        assert not may_subscribe("lab", "cam", asked)
        assert not may_subscribe("north", "cam-1", asked)
        assert may_subscribe("lab", ".ingest", asked)
    for asked in ("#", f"{ROOT}/+/state", f"{ROOT}/cam-1", f"$share/g/{ROOT}/cam-1/#"):
        assert not may_subscribe("lab", "cam-1", asked)


def listed(user: str, topic: str, what: str) -> bool:
    """Tell what mosquitto's access list says (mosquitto.conf(5))."""
    section = ""
    for line in rights("lab").splitlines():
        words = line.split()
        if words[:1] == ["user"]:
            section = words[1]
        elif words and (words[0] == "pattern" or section == user):
            matches = topic_matches_sub(words[2].replace("%u", user), topic)
            if matches and words[1] in {what, "readwrite"}:
                return True
    return False
