"""Turns of the payers at shared workers: order, bounds, and a long job that gives way."""

import ast
import asyncio
import re
import threading
from collections.abc import Callable
from math import inf

import pytest
from msgspec import structs

from anthropic_proxy.engine.background import SLICE_SECONDS, BackgroundWork
from anthropic_proxy.engine.routing.call_limits import build_call_turns
from anthropic_proxy.engine.slices import give_way, give_way_between
from anthropic_proxy.engine.turns import SharedWorker, TurnQueue, Turns
from anthropic_proxy.errors import WorkerBusy
from anthropic_proxy.plugins import Client
from tests.support.interleaving import interleave
from tests.support.paths import ROOT
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import WAIT_SECONDS

PAGE = ROOT / "docs/contributing/architecture.md"
ONE = SharedWorker(name="the one place", places=1, share=1, max_waiting=8)
TWO = structs.replace(ONE, places=2)
BUSY = "Other requests need the one place, and {} wait. Try again in a moment."


async def line_up(turns: Turns, jobs: str, served: list[str]) -> list[asyncio.Task[None]]:
    """`jobs`: payer and number, as in `a1 a2 b1`. A digit behind a colon is the size: `a1:3`, a letter the part."""

    async def serve(job: str) -> None:
        name, _, more = job.partition(":")
        size, part = (int(more), "") if more.isdecimal() else (1, more)
        await turns.acquire(name[0], size, part)
        served.append(name)

    tasks = []
    for job in jobs.split():
        tasks.append(asyncio.create_task(serve(job)))
        await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize(
    ("worker", "jobs", "order"),
    [
        (ONE, "a1 a2 a3 b1 c1", "a1 b1 c1 a2 a3"),
        (ONE, "a1 b1 a2 b2 c1 c2", "a1 b1 c1 a2 b2 c2"),
        (ONE, "a1:x a2:x a3:x b1:z a4:y", "a1 b1 a4 a2 a3"),
        (ONE, "a1:x a2:x a3:y a4:z a5:x", "a1 a3 a4 a2 a5"),
    ],
)
async def test_places_go_to_payers_in_turn(worker: SharedWorker, jobs: str, order: str) -> None:
    turns, served = Turns(worker), list[str]()
    await turns.acquire("held")
    tasks = await line_up(turns, jobs, served)
    assert served == []
    previous = "held"
    for _ in tasks:
        turns.release(previous)
        await asyncio.sleep(0)
        previous = served[-1][0]
    assert served == order.split()
    turns.release(previous)
    await asyncio.wait_for(turns.acquire("last"), WAIT_SECONDS)


@pytest.mark.parametrize(
    ("worker", "jobs", "at_once"),
    [
        (TWO, "a1 a2 a3 b1", ["a1", "b1"]),
        (structs.replace(TWO, share=2), "a1 a2 a3 b1", ["a1", "a2"]),
        (structs.replace(TWO, places=3, share=2), "a1 a2 a3 b1", ["a1", "a2", "b1"]),
        (structs.replace(TWO, places=4, share=2), "a1:3 a2:1 b1:1", ["a1", "b1"]),  # more than the share: alone
        (structs.replace(TWO, places=4, share=4), "a1:3 b1:3 c1:1", ["a1"]),  # a large one is not passed by others
    ],
)
async def test_another_payer_finds_a_place_beside_one_with_many_jobs(
    worker: SharedWorker, jobs: str, at_once: list[str]
) -> None:
    served = list[str]()
    tasks = await line_up(Turns(worker), jobs, served)
    await asyncio.sleep(0)
    assert served == at_once
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(
    ("jobs", "after"),
    [
        ("a5 a6", ["a5", "a6"]),  # nobody else waits
        ("a5 a6 b1 b2 b3", ["b1", "b2", "a5", "a6"]),
        ("b1 a5 b2", ["b1", "b2", "a5"]),
    ],
)
async def test_one_payer_gets_at_most_half_of_the_calls_while_another_waits(jobs: str, after: list[str]) -> None:
    turns, served = build_call_turns(4, 4), list[str]()
    held = await line_up(turns, "a1 a2 a3 a4", served)
    assert served == ["a1", "a2", "a3", "a4"]
    tasks = await line_up(turns, jobs, served)
    for _ in after:
        turns.release("a")
        await asyncio.sleep(0)
    assert served[len(held) :] == after
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(("places", "of_one_payer"), [(1, 1), (9, 9), (10, 9), (100, 90)])
async def test_one_payer_leaves_a_tenth_of_many_places_to_others(places: int, of_one_payer: int) -> None:
    turns, served = build_call_turns(places, places), list[str]()
    tasks = await line_up(turns, " ".join(["a1"] * places), served)
    assert len(served) == of_one_payer
    others = await line_up(turns, " ".join(["b1"] * (places - of_one_payer)), served)
    assert len(served) == places
    for task in (*tasks, *others):
        task.cancel()


@pytest.mark.parametrize(
    ("jobs", "payer", "part", "before"),
    [
        ("", "a", "", 0),
        ("a1 a2 a3", "a", "", 3),
        ("a1 a2 a3", "b", "", 1),
        ("a1 a2 a3 b1", "b", "", 3),
        ("a1 b1 b2 b3", "a", "", 2),
        ("a1:x a2:x a3:x b1", "a", "y", 2),
        ("a1:x a2:x a3:y b1 c1 c2", "a", "x", 6),
        ("a1 a2 b1 b2 c1", "d", "", 3),
    ],
)
def test_the_turns_before_a_new_item_are_known(jobs: str, payer: str, part: str, before: int) -> None:
    waiting: TurnQueue[str] = TurnQueue(20)
    for name, _, of_part in (job.partition(":") for job in jobs.split()):
        waiting.add(name[0], name, part=of_part)
    assert waiting.count_before(payer, part) == before
    waiting.add(payer, "new", part=part)
    assert [waiting.pop() for _ in range(waiting.count)].index("new") == before


async def test_who_leaves_while_waiting_loses_no_place() -> None:
    turns, served = Turns(ONE), list[str]()
    await turns.acquire("x")
    waiting, late, last = await line_up(turns, "a1 b1 c1", served)
    waiting.cancel()
    await asyncio.sleep(0)
    turns.release("x")  # b is given the place in the same moment in which it leaves
    late.cancel()
    await asyncio.gather(waiting, late, return_exceptions=True)
    await last
    assert served == ["c1"]


async def test_a_job_that_gave_up_waiting_lets_smaller_ones_pass() -> None:
    turns, served = Turns(structs.replace(ONE, places=4, share=4)), list[str]()
    await turns.acquire("x", 3)
    large, small = await line_up(turns, "a1:4 b1:1", served)
    assert served == []
    large.cancel()
    await small
    assert served == ["b1"]


@pytest.mark.parametrize(
    ("jobs", "refused", "order"),
    [
        ("a1 a2 a3 b1", "a3", "a1 b1 a2"),  # b comes, and the newest of a goes
        ("a1 a2 a3 a4", "a4", "a1 a2 a3"),
        ("a1 b1 c1 d1", "d1", "a1 b1 c1"),
        ("a1 a2 b1 b2", "b2", "a1 b1 a2"),
        ("a1:x a2:x a3:y b1", "a2", "a1 b1 a3"),
    ],
)
async def test_beyond_the_bound_the_payer_with_the_most_is_refused(jobs: str, refused: str, order: str) -> None:
    turns, served = Turns(structs.replace(ONE, max_waiting=3)), list[str]()
    await turns.acquire("held")
    tasks = await line_up(turns, jobs, served)
    await asyncio.sleep(0)
    names = [job.partition(":")[0] for job in jobs.split()]
    ended = {name: task.exception() for name, task in zip(names, tasks, strict=True) if task.done()}
    assert list(ended) == [refused]
    error = ended[refused]
    assert isinstance(error, WorkerBusy)
    assert (error.status, error.error_type, error.code, error.retry_after) == (
        529,
        "overloaded_error",
        "worker-busy",
        2,
    )
    assert error.message == BUSY.format(3)
    previous = "held"
    for _ in range(3):
        turns.release(previous)
        await asyncio.sleep(0)
        previous = served[-1][0]
    assert served == order.split()


@in_virtual_time
async def test_who_waits_too_long_is_refused_and_holds_up_nobody() -> None:
    turns = Turns(structs.replace(ONE, max_wait_seconds=60.0))
    await turns.acquire("a")
    started = asyncio.get_running_loop().time()
    with pytest.raises(WorkerBusy, match=BUSY.format(0)):
        await turns.acquire("b")
    assert asyncio.get_running_loop().time() - started == 60
    with pytest.raises(WorkerBusy):
        await turns.acquire("b", max_seconds=5.0)
    assert asyncio.get_running_loop().time() - started == 65
    turns.release("a")
    async with turns.hold("b", max_seconds=0.0):
        pass


def test_what_waits_for_a_receiver_is_bounded_by_its_size_too() -> None:
    waiting: TurnQueue[str] = TurnQueue(10, 100)
    assert [waiting.add(name[0], name, size) for name, size in (("a1", 40), ("a2", 40), ("b1", 10))] == [[], [], []]
    assert waiting.add("b", "b2", 30) == ["a2"]
    assert waiting.add("c", "c1", 200) == ["c1"]
    assert [waiting.pop() for _ in range(3)] == ["a1", "b1", "b2"]
    assert not waiting


def test_a_thread_asks_who_waits_while_the_loop_changes_it() -> None:
    def build() -> tuple[Callable[[], bool], Callable[[], object]]:
        waiting: TurnQueue[str] = TurnQueue(10)
        waiting.add("a", "a1")
        return lambda: waiting.has_others("a"), lambda: (waiting.add("b", "b1"), waiting.pop("a"))

    found = interleave(build)
    assert (found[0], found[-1]) == (True, False), "before the first instruction, and behind the last one"
    assert len(found) > 3


def test_the_architecture_page_has_each_shared_worker() -> None:
    lines = [
        line.strip(" |").split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("  | the ")
    ]
    rows = {cells[0]: cells for cells in lines}
    stated = dict[str, SharedWorker | None]()
    for path in (ROOT / "anthropic_proxy").rglob("*.py"):
        text = path.read_text("utf-8")
        if "SharedWorker(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "SharedWorker":
                values = {each.arg: each.value for each in node.keywords}
                name = ast.literal_eval(values["name"])
                is_constant = all(isinstance(values[key], ast.Constant) for key in ("places", "share"))
                bounds = {str(key): ast.literal_eval(value) for key, value in values.items()} if is_constant else None
                stated[name] = None if bounds is None else SharedWorker(**bounds)
    assert sorted(rows) == sorted(stated)
    for name, worker in stated.items():
        if worker is not None:
            cells = rows[name]
            assert cells[2:4] == [f"{worker.places}, {worker.share}", f"{worker.max_waiting:,}"], name
            end = "none" if worker.max_wait_seconds == inf else f"{worker.max_wait_seconds:g} s: "
            assert cells[4].startswith(end), name


def test_what_limits_how_many_run_at_once_has_turns_or_belongs_to_one_request() -> None:
    without = set()
    for path in (ROOT / "anthropic_proxy").rglob("*.py"):
        text = path.read_text("utf-8")
        if re.search(r"\bSemaphore\(|ThreadPoolExecutor\(|(?<!def )run_sandboxed\(", text) and not re.search(
            r"\b[Tt]urns\b", text
        ):
            without.add(path.relative_to(ROOT / "anthropic_proxy/engine/exchange").as_posix())
    assert without == {"image_describing.py", "media_inlining.py", "tool_loop/runner.py"}


class Long:
    """A computation of many steps."""

    def __init__(self, seconds_of_step: float) -> None:
        self._seconds_of_step = seconds_of_step
        self.seconds = 0.0
        self.began = threading.Event()
        self.go = threading.Event()
        self.done: list[str] = []

    def clock(self) -> float:
        return self.seconds

    def compute(self, name: str, slices: int) -> str:
        for number in give_way_between(range(slices)):
            self.began.set()
            assert self.go.wait(WAIT_SECONDS)
            self.done.append(f"{name}{number}")
            self.seconds += self._seconds_of_step
        return name


async def test_a_long_job_gives_way_to_the_jobs_of_others() -> None:
    long = Long(SLICE_SECONDS * 1.2)
    background = BackgroundWork(clock=long.clock)
    first = asyncio.create_task(background.of("a").run_in_thread(long.compute, "a", 6))
    assert await asyncio.to_thread(long.began.wait, WAIT_SECONDS)
    jobs = [("a", "A", 1), ("b", "b", 3), ("c", "c", 1)]
    others = [asyncio.create_task(background.of(who).run_in_thread(long.compute, *job)) for who, *job in jobs]
    await asyncio.sleep(0)
    long.go.set()
    assert await asyncio.gather(first, *others) == ["a", "A", "b", "c"]
    assert long.done == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3", "a4", "a5", "A0"]


async def test_a_request_that_has_begun_comes_before_others_of_its_payer() -> None:
    long = Long(0)
    background = BackgroundWork(clock=long.clock)

    async def read_twice(payer: str, name: str) -> None:
        work = background.of(payer)
        for step in "12":
            await work.run_in_thread(long.compute, f"{name}{step}.", 1)

    requests = [asyncio.create_task(read_twice(payer, name)) for payer, name in ("ax", "ay", "az", "av")]
    assert await asyncio.to_thread(long.began.wait, WAIT_SECONDS)
    long.go.set()
    await asyncio.gather(*requests)
    assert " ".join(long.done) == "x1.0 y1.0 x2.0 y2.0 z1.0 v1.0 z2.0 v2.0"


@in_virtual_time
@pytest.mark.parametrize("late", ["", "a2:x", "e1", "b2"])
async def test_a_job_that_has_begun_is_never_refused(late: str) -> None:
    turns, served, others = Turns(structs.replace(ONE, max_waiting=3)), list[str](), "b1 c1 d1"
    await turns.acquire("a")
    tasks = await line_up(turns, others, served)
    turns.give_way("a", lambda: served.append("a"))
    await asyncio.sleep(0)
    refused = await line_up(turns, late, served)
    for task in refused:
        with pytest.raises(WorkerBusy, match=BUSY.format(3)):
            await task
    for name in "bcd":
        assert (served[-1], "a" in served) == (f"{name}1", False)
        turns.release(name)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert served == ["b1", "c1", "d1", "a"]
    with pytest.raises(WorkerBusy):  # it has the only place
        await turns.acquire("e", max_seconds=1.0)
    turns.release("a")
    async with turns.hold("e", max_seconds=1.0):
        with pytest.raises(WorkerBusy):
            await turns.acquire("a", max_seconds=1.0)


async def test_a_job_gives_way_only_after_its_slice_and_only_in_the_thread() -> None:
    long = Long(SLICE_SECONDS * 0.6)
    background = BackgroundWork(clock=long.clock)
    give_way()  # on the event loop
    first = asyncio.create_task(background.of("a").run_in_thread(long.compute, "a", 4))
    assert await asyncio.to_thread(long.began.wait, WAIT_SECONDS)
    other = asyncio.create_task(background.of("b").run_in_thread(long.compute, "b", 1))
    await asyncio.sleep(0)
    long.go.set()
    await asyncio.gather(first, other)
    assert long.done == ["a0", "a1", "b0", "a2", "a3"]


@pytest.mark.parametrize(
    ("client", "payer"),
    [
        (Client(name="laptop", key_id="key_1", person="key_9", owner="ann"), "person key_9"),
        (Client(name="laptop", key_id="key_1", owner="ann"), "owner ann"),
        (Client(name="laptop", key_id="key_1", owner="ann", has_foreign_texts=True), "key key_1"),
        (Client(name="ci", key_id="key_2", team="web"), "key key_2"),
        (Client(name="key 1"), "key key 1"),
        (Client(credential_forwardable=True, address="192.0.2.7"), "address 192.0.2.7"),
        (Client(name="", address="2001:db8::1"), "address 2001:db8::1"),
    ],
)
def test_who_pays_is_the_person_else_the_key_else_the_address(client: Client, payer: str) -> None:
    assert client.payer == payer
