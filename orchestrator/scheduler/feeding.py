"""Giving workers their next shards: how many each should hold, and the claims that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.scheduler import ledger
from orchestrator.scheduler.member import Member
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.scheduler.staffing import num_shards_to_claim, samples_wanted
from orchestrator.store.campaigns import Grip
from orchestrator.store.leases import Claim
from orchestrator.store.plan import Remaining
from orchestrator.store.session import Connection
from workers.exchange import Condition

_NOTHING = Remaining(0, 0)


class Feeder:
    """Knows what is ready for each engine, as of the last look at the store."""

    def __init__(self, settings: LoopSettings) -> None:
        self.left: Mapping[str, Remaining] = {}
        self._settings = settings
        self._speeds: dict[str, float] = {}
        """Samples a second of one engine, by kind, as last seen."""

    def appetite(self, member: Member) -> int:
        """Samples that this worker should hold beyond those it has; 0 when there are none for it."""
        usable = member.condition is Condition.READY and not member.told_to_drain and member.drain_seconds is None
        if not usable or not self._ready(member).num_shards:
            return 0
        return self._wanted(member) - member.num_held

    def claim(self, connection: Connection, grip: Grip, members: Sequence[Member]) -> list[tuple[Member, list[Claim]]]:
        """Claims for everybody who is hungry, the hungriest first."""
        made = []
        for member in sorted(members, key=lambda m: m.num_held):
            number = self._shards_for(member, members)
            if number:
                claims = ledger.claim_for(
                    connection,
                    grip,
                    member,
                    number,
                    lease_seconds=self._settings.lease_seconds,
                    policy=self._settings.policy,
                )
                made.append((member, claims))
                self._take(member.engine_key, claims, number)
        return made

    def _ready(self, member: Member) -> Remaining:
        return self.left.get(member.engine_key, _NOTHING)

    def _wanted(self, member: Member) -> int:
        return samples_wanted(
            max_in_flight=member.engine.max_in_flight,
            per_second=self._speed(member),
            lookahead_seconds=self._settings.lookahead_seconds,
        )

    def _speed(self, member: Member) -> float:
        """Its own speed; for a newcomer that of its kind, so that it gets enough to do at once."""
        if member.speed_is_known:
            self._speeds[member.engine_key] = member.per_second()
            return member.per_second()
        return max(member.per_second(), self._speeds.get(member.engine_key, 0.0))

    def _shards_for(self, member: Member, members: Sequence[Member]) -> int:
        if self.appetite(member) <= 0:
            return 0
        ready = self._ready(member)
        return num_shards_to_claim(
            num_held=member.num_held,
            num_wanted=self._wanted(member),
            samples_per_shard=max(1, ready.num_samples // ready.num_shards),
            num_ready=ready.num_shards,
            num_workers=sum(m.engine_key == member.engine_key for m in members),
            num_least=member.engine.max_in_flight + max(1, member.engine.max_in_flight // 4),
        )

    def _take(self, engine_key: str, claims: Sequence[Claim], asked: int) -> None:
        """Count claims off what is left; fewer than asked for means that nothing more is ready now."""
        before = self.left[engine_key]
        after = _NOTHING
        if len(claims) >= asked:
            samples = before.num_samples - sum(len(c.indices) for c in claims)
            after = Remaining(before.num_shards - len(claims), max(0, samples))
        self.left = {**self.left, engine_key: after}
