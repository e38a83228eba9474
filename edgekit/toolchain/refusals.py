"""Plans that were not evaluated, in few words: those with the same reason are told together."""

from __future__ import annotations

from collections.abc import Mapping


def summed_up(refused: Mapping[str, str]) -> list[str]:
    """Return a sentence for each reason, in the order of the first plan that has it.

    Args:
        refused: The reason by plan, which may begin with the plan's name and a colon.
    """
    plans: dict[str, list[str]] = {}
    for name, why in refused.items():
        plans.setdefault(why.removeprefix(f"{name}: "), []).append(name)
    return [f"{_names(names)}: {why}" for why, names in plans.items()]


def _names(names: list[str]) -> str:
    first, *others = names
    if not others:
        return first
    return f"{first} and {len(others)} other plan{'s' if len(others) > 1 else ''}"
