"""The examples of adoption, where the package that adopts the memory is installed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memory

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def _run(example: str, *options: str, namespace: str, redis_url: str) -> str:
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *options, "--namespace", namespace],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "COINSWARM_REDIS_URL": redis_url},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def _count(namespace: str, redis_url: str) -> int:
    async def count() -> int:
        async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
            return await mem.episodic.count()

    return asyncio.run(count())


@pytest.mark.parametrize(
    ("package", "example", "options", "least"),
    [
        ("stable_baselines3", "stable_baselines3_adoption.py", ["--steps", "256"], 256),
        ("torchrl", "torchrl_adoption.py", ["--steps", "200"], 200),
        ("ray.rllib", "rllib_adoption.py", ["--iterations", "1", "--batch", "128"], 128),
    ],
    ids=["stable-baselines3", "torchrl", "rllib"],
)
def test_the_training_of_another_package_is_remembered(
    servers: Any, namespace: str, package: str, example: str, options: list[str], least: int
) -> None:
    pytest.importorskip(package, reason=f"the example needs {package}, which the project itself does not")
    said = _run(
        example,
        *options,
        *(["--redis-url", servers.redis_url] if package == "ray.rllib" else []),
        namespace=namespace,
        redis_url=servers.redis_url,
    )
    assert "experiences" in said
    assert _count(namespace, servers.redis_url) >= least
