"""Settings of the robustness stage: what is attacked, how hard, and which defences are measured."""

from __future__ import annotations

import pydantic

from data.shilling import Kind, ShillingAttack
from pipeline.settings.section import Section


class RobustnessSection(Section):
    """`[robustness]`: adversarial content and shilling, before and after the defences (`python -m pipeline robustness`)."""

    k: int = pydantic.Field(20, ge=1)
    """Length of the lists that an attacker wants to be in."""
    targets: int = pydantic.Field(30, ge=2)
    """Items whose content is attacked, of each kind: never chosen in training, and the less popular half of the others."""
    epsilons: tuple[float, ...] = pydantic.Field((0.01, 0.03, 0.1, 0.2), min_length=1)
    """Changes of a content vector, as shares of its length."""
    ranked_users: int = pydantic.Field(1000, ge=0)
    """Test users whose final lists, retrieved and ranked, are looked at; 0 leaves attacks through the ranker out."""
    steps: int = pydantic.Field(10, ge=1)
    """Of projected gradient ascent."""
    content_rank: int = pydantic.Field(64, ge=1)
    """Leading components a modality that the defence `denoised content` leaves."""
    adversarial: float = pydantic.Field(1.0, ge=0)
    """Weight of `retrieval.side.adversarial` in the towers trained as a defence; 0 leaves them out."""
    picture_epsilons: tuple[int, ...] = (2, 8)
    """Changes of pixels, of 255, where the image encoder is a differentiable model and the pictures are at hand."""
    pictures: int = pydantic.Field(8, ge=0)
    """New items whose pictures are attacked; 0 leaves it out."""
    picture_noise: float = pydantic.Field(32.0, ge=0)
    """Of the defence of files, an encoder pooled over noisy views (`noised:<sigma>x<views>:<secret>:<spec>`): of 255; 0 leaves
    it out."""
    sound_noise: float = pydantic.Field(0.3, ge=0)
    """The same for sound, in decades of power."""
    views: int = pydantic.Field(4, ge=1)
    shilling_kinds: tuple[Kind, ...] = ("random", "average", "bandwagon", "popular")
    shilling_targets: int = pydantic.Field(5, ge=2)
    """Items pushed by fake users, one after the other, of the less popular half."""
    users: int = pydantic.Field(200, ge=1)
    """Fake users an attack."""
    fillers: int = pydantic.Field(30, ge=0)
    days: float = pydantic.Field(7.0, ge=0)
    """How long an attack takes; 0 = the whole log."""
    event: str = "purchase"
    share: float = pydantic.Field(0.1, gt=0, le=0.5)
    """`data.anomaly_share` of the defence."""
    burst_bound: float = pydantic.Field(3.0, gt=0)
    """`linear.burst_bound` of the defence."""
    updates: int = pydantic.Field(3, ge=0)
    """Of those items, so many on whose attacked and defended log all models go on, as in a night (`[job]`); by the last kind of
    attack. 0 leaves it out."""
    seed: int = pydantic.Field(7, ge=0)

    def shilling(self, kind: Kind) -> ShillingAttack:
        """The attack of one kind."""
        return ShillingAttack(kind, self.users, self.fillers, self.event, self.days)
