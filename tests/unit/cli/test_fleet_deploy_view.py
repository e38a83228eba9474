"""What a deployment says of each device while it runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgekit.cli.fleet_deploy_view import DeployView
from edgekit.fleet.orders import DeviceOrder, Phase


@pytest.mark.parametrize(
    ("phase", "detail", "is_online", "said"),
    [
        (
            "trial",
            "",
            True,
            "serves for 10 min and 20 requests, unless set otherwise",
        ),
        ("waiting", "", False, "it is offline"),
        ("waiting", "", True, ""),
        ("reverted", "scores differ", True, "scores differ"),
    ],
)
def test_a_line_says_why_a_device_stands_there(phase, detail, is_online, said):
    lines: list[str] = []
    view = DeployView(SimpleNamespace(note=lines.append), None)
    order = DeviceOrder(device="cam-1", phase=Phase(phase), detail=detail)
    rollout = SimpleNamespace(devices=[order])
    view.draw(rollout, {"cam-1": is_online}, 0.0)
    view.draw(rollout, {"cam-1": is_online}, 1.0)
    assert lines == [f"  {'cam-1':<24} {phase}   {said}".rstrip()]
