"""L_SAGE: what a network is trained on so that a group's trunk serves all its members.

Knows latents, noise levels, groups and a denoiser (any callable); nothing of texts, adapters,
optimisers or files. arXiv 2509.15865 does not publish the loss; this is our reading of it (and
`twin_loss`, at the end, is ours altogether):

    shared phase, t >= T*:  e_bar  = eps(z_t, t, c_bar)
                            e_soft = stopgrad( mean_n eps(z_t, t, c_n) )
                            L_shared = |eps - e_bar|²        L_soft = |e_bar - e_soft|²
    branch phase, t < T*:   L_branch = mean_n |eps_n - eps(z_t^n, t, c_n)|²
    L_SAGE = L_branch + lambda_shared · L_shared + lambda_soft · L_soft

t is a training timestep (0 = least noise), so the shared phase, the first share_ratio of the
sampling steps, is the *upper* share_ratio of the timesteps. |·|² averages over an array's values.

Every term compares two outputs of the network, or an output with its target, at the same z_t and
t. There z_t = s·x0 + n·ε (s = √ᾱ, n = √(1−ᾱ)) makes ε, x0 and v = s·ε − n·x0 linear in each other
(arXiv 2202.00512), so a difference of ε is s times one of v, and each term is the squared
difference of the network's *own* outputs times a weight w(t):

    weighting      ε-prediction             v-prediction             what it is
    "prediction"   1                        1                        squared error of the output
    "epsilon"      1                        ᾱ = s²                   squared error of ε, as written
    "min_snr"      min(SNR, γ) / SNR        min(SNR, γ) / (SNR + 1)  arXiv 2303.09556, SNR = ᾱ/(1−ᾱ)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from sage.core.guidance import guide
from sage.core.plan import Group
from sage.core.solver import Prediction
from sage.core.trunk import group_mean

# (z [R, ...], timestep of each row [R], condition of each row [R, ...]) -> output [R, ...]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]
SharedLatent = Literal["members", "one_member", "mean"]
SoftTarget = Literal["model", "base", "ema"]
Weighting = Literal["prediction", "epsilon", "min_snr"]
PhaseWeights = Literal["equal", "by_length"]


@dataclass(frozen=True)
class LossConfig:
    """The forks that the paper leaves open; the defaults come from our ablation (`loss-forks`).

    Attributes:
        lambda_shared: λ1, weight of L_shared; 0 or more.
        lambda_soft: λ2, weight of L_soft; 0 or more, and 0 saves the soft target's evaluations.
        shared_latent: z_t of the shared phase. "members": each member's own noised latent (N rows,
            N² soft evaluations); "one_member": that of one member, drawn anew each time, the same
            on average (1 row, N soft evaluations); "mean": the noised mean of the members' clean
            latents (likewise). Within a group all share one ε and one t, as a trunk does.
        soft_target: Whose predictions the soft target averages: "model", the network in training;
            "base", the frozen one; "ema", the moving average. Whoever calls provides the network.
        share_ratio: Lowest and highest share β of the timesteps that are shared; drawn uniformly
            for each group and step. Equal numbers fix it. Each inside (0, 1).
        weighting: w(t), see the table of this module.
        min_snr_gamma: γ of "min_snr"; positive.
        phase_weights: "equal": the sum as written, each phase an average over its own timesteps;
            "by_length": the phases count β and 1 − β, as if t were drawn from all timesteps.

    Raises:
        ValueError: If a value is not allowed.
    """

    lambda_shared: float = 0.1
    lambda_soft: float = 1.0
    shared_latent: SharedLatent = "one_member"
    soft_target: SoftTarget = "base"
    share_ratio: tuple[float, float] = (0.2, 0.5)
    weighting: Weighting = "epsilon"
    min_snr_gamma: float = 5.0
    phase_weights: PhaseWeights = "equal"

    def __post_init__(self) -> None:
        for name in ("lambda_shared", "lambda_soft"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed is 0 or more.")
        for field in fields(self):
            if allowed := get_args(field.type):
                _check_choice(field.name, getattr(self, field.name), allowed)
        low, high = self.share_ratio
        if not 0 < low <= high < 1:
            raise ValueError(
                f"share_ratio is {low} to {high}; allowed are 0 < lowest <= highest < 1."
            )
        if not self.min_snr_gamma > 0:
            raise ValueError(f"min_snr_gamma is {self.min_snr_gamma}; it must be positive.")


def _check_choice(name: str, value: object, allowed: tuple) -> None:
    if all(isinstance(choice, str) for choice in allowed) and value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}.")


@dataclass(frozen=True)
class NoiseLevels:
    """The training timesteps of a model and what it predicts.

    Attributes:
        alphas: [T] ᾱ of each timestep, falling, in [0, 1].
        prediction: "epsilon" or "v_prediction".

    Raises:
        ValueError: For another kind of prediction, or an ε-prediction at zero signal.
    """

    alphas: Tensor
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"prediction is {self.prediction!r}; allowed are 'epsilon' and 'v_prediction'."
            )
        if self.prediction == "epsilon" and bool((self.alphas == 0).any()):
            raise ValueError("An epsilon-prediction cannot be trained at zero signal.")

    def __len__(self) -> int:
        """T, the number of timesteps."""
        return len(self.alphas)

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t = √ᾱ·x0 + √(1−ᾱ)·ε of rows [R, ...] at timesteps t [R]."""
        s, n = self.signal_and_noise(t, x0)
        return s * x0 + n * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should say of z_t: ε, or v = √ᾱ·ε − √(1−ᾱ)·x0; [R, ...]."""
        if self.prediction == "epsilon":
            return noise
        s, n = self.signal_and_noise(t, x0)
        return s * noise - n * x0

    def weight(self, t: Tensor, config: LossConfig) -> Tensor:
        """w(t) of timesteps t [R], by the table of this module: [R]."""
        a = self.alphas.to(t.device)[t].float()
        if config.weighting == "prediction":
            return torch.ones_like(a)
        epsilon = self.prediction == "epsilon"
        if config.weighting == "epsilon":
            return torch.ones_like(a) if epsilon else a
        # min(SNR, γ)/SNR = min(1, γ/SNR) and min(SNR, γ)/(SNR+1) = ᾱ·min(1, γ/SNR), without 0/0.
        clipped = (config.min_snr_gamma * (1 - a) / a.clamp(min=1e-12)).clamp(max=1.0)
        return clipped if epsilon else a * clipped

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1−ᾱ) of timesteps t [R], shaped to multiply rows like `like` [R, ...]."""
        a = self.alphas.to(t.device)[t].to(like.dtype).view(-1, *(1,) * (like.ndim - 1))
        return a.sqrt(), (1 - a).sqrt()


@dataclass(frozen=True)
class GroupBatch:
    """Some groups of prompts with their pictures.

    Attributes:
        latents: [B, ...] clean, scaled latents of all members.
        cond: [B, ...] their conditions.
        groups: A partition of 0..B-1.

    Raises:
        ValueError: If these disagree.
    """

    latents: Tensor
    cond: Tensor
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        members = sorted(n for group in self.groups for n in group)
        if (
            not members
            or members != list(range(len(self.latents)))
            or len(self.cond) != len(members)
        ):
            raise ValueError(
                f"The groups hold members {members}, beside {len(self.latents)} latents and "
                f"{len(self.cond)} conditions; need each of them once."
            )

    def owners(self) -> Tensor:
        """[B] the group of each member."""
        return _owners(self.groups, self.latents.device)


def _owners(groups: Sequence[Group], device: torch.device) -> Tensor:
    place = {n: g for g, group in enumerate(groups) for n in group}
    return torch.tensor([place[n] for n in range(len(place))], device=device)


@dataclass(frozen=True)
class Draws:
    """The randomness of one training step; everything drawn on the CPU from one generator.

    Attributes:
        share_ratio: [G] β of each group.
        shared_t: [G] timestep of each trunk, uniform in T*..T-1.
        branch_t: [B] timestep of each member, uniform in 0..T*-1 of its group.
        shared_noise: [G, ...] ε of each trunk.
        branch_noise: [B, ...] ε of each member.
        chosen: [G] the member whose latent a trunk uses under "one_member".
    """

    share_ratio: Tensor
    shared_t: Tensor
    branch_t: Tensor
    shared_noise: Tensor
    branch_noise: Tensor
    chosen: Tensor

    @classmethod
    def of(
        cls, batch: GroupBatch, config: LossConfig, timesteps: int, generator: torch.Generator
    ) -> "Draws":
        """Draws for a batch.

        Args:
            batch: The groups.
            config: Its share_ratio is used.
            timesteps: T, the number of training timesteps.
            generator: A CPU generator: the numbers are the same on every device.
        """
        G, B = len(batch.groups), len(batch.latents)
        low, high = config.share_ratio
        ratio = low + (high - low) * torch.rand(G, generator=generator)
        split = first_shared_timestep(ratio, timesteps)  # (G)
        shared = split + _uniform(timesteps - split, generator)
        branch = _uniform(split[batch.owners().cpu()], generator)
        shape = batch.latents.shape[1:]
        shared_noise = torch.randn(G, *shape, generator=generator)
        branch_noise = torch.randn(B, *shape, generator=generator)
        sizes = torch.tensor([len(group) for group in batch.groups])
        places = _uniform(sizes, generator).tolist()
        chosen = torch.tensor([g[k] for g, k in zip(batch.groups, places, strict=True)])
        drawn = (ratio, shared, branch, shared_noise, branch_noise, chosen)
        return cls(*(value.to(batch.latents.device) for value in drawn))


def _uniform(size: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers, uniform in 0..size-1 for each entry."""
    drawn = (torch.rand(size.shape, generator=generator, dtype=torch.float64) * size).long()
    return torch.minimum(drawn, size - 1)


def first_shared_timestep(share_ratio: Tensor, timesteps: int) -> Tensor:
    """T* as a training timestep, in 1..T-1: those from it on are shared.

    Args:
        share_ratio: β, any shape.
        timesteps: T.
    """
    return ((1 - share_ratio) * timesteps).round().long().clamp(1, timesteps - 1)


@dataclass(frozen=True)
class LossTerms:
    """One step's loss and its parts, all scalars.

    Attributes:
        total: What is minimised.
        branch: L_branch, or the only term of the standard loss.
        shared: L_shared; None where it was not computed.
        soft: L_soft; None where it was not computed.
    """

    total: Tensor
    branch: Tensor
    shared: Tensor | None = None
    soft: Tensor | None = None


def branch_loss(output: Tensor, target: Tensor, weight: Tensor, owners: Tensor) -> Tensor:
    """L_branch = mean_n |eps_n − eps(z_t^n, t, c_n)|² in each group (our reading).

    Args:
        output: [B, ...] the network's outputs.
        target: [B, ...] what they should be.
        weight: [B] w(t), or w(t) times the phase's weight.
        owners: [B] group of each row; every group 0..G-1 occurs.

    Returns:
        The mean over groups of the mean over their rows: a large group counts no more than a
        small one.
    """
    return _mean_over_groups(weight * _square(output - target), owners)


def shared_loss(output: Tensor, target: Tensor, weight: Tensor, owners: Tensor) -> Tensor:
    """L_shared = |eps − eps(z_t, t, c_bar)|² in each group (our reading).

    Args:
        output: [K, ...] e_bar, the outputs for the groups' mean conditions.
        target: [K, ...] what they should be.
        weight: [K] w(t), or w(t) times the phase's weight.
        owners: [K] group of each row.
    """
    return _mean_over_groups(weight * _square(output - target), owners)


def soft_loss(
    output: Tensor, member_outputs: Tensor, rows: Tensor, weight: Tensor, owners: Tensor
) -> Tensor:
    """L_soft = |e_bar − e_soft|², e_soft = stopgrad(mean_n eps(z_t, t, c_n)) (our reading).

    Args:
        output: [K, ...] e_bar.
        member_outputs: [M, ...] outputs for single members' conditions, each at the z_t and t of
            one row of `output`; no gradient flows into them.
        rows: [M] that row.
        weight: [K] w(t), or w(t) times the phase's weight.
        owners: [K] group of each row of `output`.
    """
    soft = _mean_of(member_outputs.detach(), rows, len(output))
    return _mean_over_groups(weight * _square(output - soft), owners)


def _square(difference: Tensor) -> Tensor:
    """Mean square of each row [R, ...] -> [R], in float32."""
    return difference.float().flatten(1).square().mean(1)


def _mean_of(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Means [count, ...] of the rows of values that share an index."""
    total = values.new_zeros(count, *values.shape[1:]).index_add(0, index, values)
    number = torch.bincount(index, minlength=count).to(values.dtype)
    return total / number.view(-1, *(1,) * (values.ndim - 1))


def _mean_over_groups(values: Tensor, owners: Tensor) -> Tensor:
    """Mean over groups of the means [R] -> scalar inside them."""
    number = torch.bincount(owners).to(values.dtype)
    return (values / number[owners]).sum() / len(number)


@dataclass(frozen=True)
class _Trunks:
    """Rows of the shared phase."""

    z: Tensor  # [K, ...]
    t: Tensor  # [K]
    cond: Tensor  # [K, ...] c_bar
    target: Tensor  # [K, ...]
    owners: Tensor  # [K]
    members: Tensor  # [M] all members of each row's group, row after row
    rows: Tensor  # [M] the row that each belongs to


def _trunks(batch: GroupBatch, levels: NoiseLevels, config: LossConfig, draws: Draws) -> _Trunks:
    device, groups = batch.latents.device, batch.groups
    if config.shared_latent == "members":
        owner_list = [g for g, group in enumerate(groups) for _ in group]
        x0 = batch.latents[_index([n for group in groups for n in group], device)]
    else:
        owner_list = list(range(len(groups)))
        one = config.shared_latent == "one_member"
        x0 = batch.latents[draws.chosen] if one else group_mean(batch.latents, groups)
    owners = _index(owner_list, device)
    t, noise = draws.shared_t[owners], draws.shared_noise[owners].to(x0.dtype)
    return _Trunks(
        z=levels.noised(x0, noise, t),
        t=t,
        cond=group_mean(batch.cond, groups)[owners],
        target=levels.target(x0, noise, t),
        owners=owners,
        members=_index([n for g in owner_list for n in groups[g]], device),
        rows=_index([k for k, g in enumerate(owner_list) for _ in groups[g]], device),
    )


def _index(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.long)


def sage_loss(
    network: Network,
    teacher: Network,
    batch: GroupBatch,
    levels: NoiseLevels,
    config: LossConfig,
    *,
    generator: torch.Generator,
) -> LossTerms:
    """L_SAGE of a batch of groups; both phases are drawn in every step.

    Args:
        network: The one in training; called once, with the rows of both phases.
        teacher: The network that `config.soft_target` names; called without gradient, and before
            `network`, so that it may borrow the same weights. Unused if lambda_soft is 0.
        batch: The groups.
        levels: Noise levels and kind of prediction of the network.
        config: The forks.
        generator: A CPU generator for this step.
    """
    draws = Draws.of(batch, config, len(levels), generator)
    trunks = _trunks(batch, levels, config, draws)
    soft_outputs = None
    if config.lambda_soft:
        with torch.no_grad():
            m = trunks.rows
            soft_outputs = teacher(trunks.z[m], trunks.t[m], batch.cond[trunks.members])
    x0, noise, t = batch.latents, draws.branch_noise.to(batch.latents.dtype), draws.branch_t
    output = network(
        torch.cat([levels.noised(x0, noise, t), trunks.z]),
        torch.cat([t, trunks.t]),
        torch.cat([batch.cond, trunks.cond]),
    )
    of_branches, of_trunks = output.split([len(t), len(trunks.t)])
    owners = batch.owners()
    share = draws.share_ratio if config.phase_weights == "by_length" else None
    heavy = levels.weight(t, config) * (1 if share is None else 1 - share[owners])
    branch = branch_loss(of_branches, levels.target(x0, noise, t), heavy, owners)
    heavy = levels.weight(trunks.t, config) * (1 if share is None else share[trunks.owners])
    shared = shared_loss(of_trunks, trunks.target, heavy, trunks.owners)
    total, soft = branch + config.lambda_shared * shared, None
    if soft_outputs is not None:
        soft = soft_loss(of_trunks, soft_outputs, trunks.rows, heavy, trunks.owners)
        total = total + config.lambda_soft * soft
    return LossTerms(total, branch, shared, soft)


def standard_loss(
    network: Network,
    batch: GroupBatch,
    levels: NoiseLevels,
    config: LossConfig,
    *,
    generator: torch.Generator,
) -> LossTerms:
    """Ordinary fine-tuning on the same groups: |eps_n − eps(z_t^n, t, c_n)|², t uniform in 0..T-1.

    Args:
        network: The one in training.
        batch: The groups, which count alike, as in L_branch.
        levels: Noise levels and kind of prediction of the network.
        config: Its weighting is used, and nothing else.
        generator: A CPU generator for this step.
    """
    x0, device = batch.latents, batch.latents.device
    t = torch.randint(len(levels), (len(x0),), generator=generator).to(device)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    output = network(levels.noised(x0, noise, t), t, batch.cond)
    heavy, target = levels.weight(t, config), levels.target(x0, noise, t)
    loss = branch_loss(output, target, heavy, batch.owners())
    return LossTerms(loss, loss)


# --- ours: branches learn to reach the picture that their prompt makes alone -------------------


@dataclass(frozen=True)
class TwinBatch:
    """Branches that leave their trunk, each with the clean latents it should reach.

    A trunk and its members' twins were sampled from the same noise with the frozen network, so
    what a branch has to reach is a function of where it starts.

    Attributes:
        split: [B, ...] the trunk's latent where each member's branch begins.
        split_t: [B] its timestep.
        twins: [B, ...] clean latents that each member reaches without sharing.
        cond: [B, ...] conditions of the members.
        uncond: [1, ...] the empty condition.
        trunk: [G, ...] a latent of each group's trunk, before or at the split.
        trunk_t: [G] its timestep.
        groups: A partition of 0..B-1.
    """

    split: Tensor
    split_t: Tensor
    twins: Tensor
    cond: Tensor
    uncond: Tensor
    trunk: Tensor
    trunk_t: Tensor
    groups: tuple[Group, ...]


def twin_loss(
    network: Network,
    frozen: Network,
    batch: TwinBatch,
    levels: NoiseLevels,
    config: LossConfig,
    *,
    guidance: float,
    generator: torch.Generator,
) -> LossTerms:
    """Teaches branches to undo the trunk, and leaves the trunk where it is; ours.

    With z the trunk's latent at the split and x* a member's twin, ε* = (z − s·x*) / n is the noise
    that would connect them. On that straight way, z_t = s_t·x* + n_t·ε* for t at most the split's,
    the *guided* prediction is taught what (x*, ε*) imply; as in rectified flow (arXiv 2209.03003),
    but from the trunk on. The guided prediction on the trunk itself is held to the frozen
    network's, so that branches go on starting where they were taught to.

    Args:
        network: The one in training; called once.
        frozen: The one that made the trunks; called without gradient, before `network`.
        batch: Branches and trunks.
        levels: Noise levels and kind of prediction.
        config: Its weighting is used; lambda_shared weights the trunk's term.
        guidance: The guidance scale that twins and trunks were sampled with.
        generator: A CPU generator for this step.
    """
    device, owners = batch.split.device, _owners(batch.groups, batch.split.device)
    t = _uniform(batch.split_t.cpu() + 1, generator).to(device)
    s, n = levels.signal_and_noise(batch.split_t, batch.split)
    noise = (batch.split - s * batch.twins) / n
    z, target = levels.noised(batch.twins, noise, t), levels.target(batch.twins, noise, t)
    mean = group_mean(batch.cond, batch.groups)
    with torch.no_grad():
        held = _guided(frozen, batch.uncond, guidance)(batch.trunk, batch.trunk_t, mean)
    output = _guided(network, batch.uncond, guidance)(
        torch.cat([z, batch.trunk]),
        torch.cat([t, batch.trunk_t]),
        torch.cat([batch.cond, mean]),
    )
    of_branches, of_trunks = output.split([len(t), len(batch.trunk_t)])
    branch = branch_loss(of_branches, target, levels.weight(t, config), owners)
    each = torch.arange(len(batch.groups), device=device)
    shared = shared_loss(of_trunks, held, levels.weight(batch.trunk_t, config), each)
    return LossTerms(branch + config.lambda_shared * shared, branch, shared)


def _guided(network: Network, uncond: Tensor, guidance: float) -> Network:
    """Classifier-free guidance (arXiv 2207.12598); each call is one call of the network."""
    if guidance <= 1:
        return network

    def guided(z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        both = torch.cat([uncond.expand_as(cond), cond])
        without, with_prompt = network(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        return guide(without, with_prompt, guidance)

    return guided
