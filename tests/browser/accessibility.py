"""WCAG 2.1 A and AA by axe-core, which npm installs below this folder (`make test-all` does): package-lock.json pins it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
_RUN = """
const done = arguments[0];
const only = { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] };
axe.run(document, { runOnly: only }).then(
  ({ violations }) => done(violations.flatMap(({ id, nodes }) => nodes.map(({ html, any }) => `${id}: ${html} ${any[0]?.message ?? ""}`))),
  (error) => done([String(error)]));
"""
LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (1440, 390)]

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm ci in tests/browser")


def find_violations(page: Any) -> list[str]:
    """The page's violations as it stands now, each with its element. The devtools' protocol runs axe despite the page's policy."""
    page.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
    return list(page.execute_async_script(_RUN))


def set_look(page: Any, scheme: str, width: int, *, reduced_motion: bool = False) -> None:
    """Dark or light, and the window's width; until `reset_look`."""
    motion = "reduce" if reduced_motion else "no-preference"
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def reset_look(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
