"""The client id of a device: stable, of its own, and no secret of it."""

from __future__ import annotations

from dataclasses import replace

from edgekit.agent.session import Address

ADDRESS = Address("127.0.0.1", 1883, "lab", "cam-1", "cam-1", "a long password")


def test_it_is_stable_and_hangs_on_the_password():
    found = ADDRESS.client_id()
    assert found == replace(ADDRESS, host="broker").client_id()
    assert found.startswith("edgekit-lab-cam-1-")
    assert found != replace(ADDRESS, password="another").client_id()  # noqa: S106 - of tests
    assert found.rpartition("-")[2] != replace(ADDRESS, device="cam-2").client_id()[-16:]
    assert "password" not in found


def test_connections_of_a_device_differ_and_an_anonymous_one_has_no_secret():
    assert ADDRESS.client_id("sparkplug").startswith("edgekit-lab-cam-1-sparkplug-")
    assert replace(ADDRESS, password=None).client_id() == "edgekit-lab-cam-1"
