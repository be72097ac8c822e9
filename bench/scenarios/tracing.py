"""An empty unary call with spans for one call in a hundred against none, both behind the interceptor (goal: >= 0.95).

Were the library asked first, it would be about 0.6 at the same ratio: it makes a span before its sampler says no.
"""

from bench.children import child
from bench.material import Material
from bench.measure import compare
from bench.report import figure_of
from bench.scenarios.interceptor import CALLERS, EmptyCall
from bench.settings import Result, Settings

GOAL = 0.95


async def run(settings: Settings) -> Result:
    """Compare at 64 callers (throughput) and at one (latency)."""
    work = settings.folder("tracing")
    material = Material.make(work)
    result = Result()
    async with (
        child(work / "none.log", "bench.empty_server", str(work), "--with", "interceptor") as none,
        child(work / "sampled.log", "bench.empty_server", str(work), "--with", "tracing") as sampled,
    ):
        floor = EmptyCall("no tracing", none[1], none[0], material)
        subject = EmptyCall("1 % sampled", sampled[1], sampled[0], material)
        async with floor.channel, subject.channel:
            for callers in CALLERS:
                comparison = await compare("tracing at 1 % against none", floor, subject, settings.load(callers))
                result.comparisons.append(comparison)
                result.figures.append(figure_of(comparison, GOAL))
    return result
