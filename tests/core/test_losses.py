"""The terms of L_SAGE against formulas written out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from sage.core.losses import (
    Draws,
    GroupBatch,
    LossConfig,
    NoiseLevels,
    TwinBatch,
    branch_loss,
    first_shared_timestep,
    sage_loss,
    shared_loss,
    soft_loss,
    standard_loss,
    twin_loss,
)
from tests.test_imports import FOREIGN, loaded_by

T = 1000
ALPHAS = torch.cos(torch.linspace(0.02, 0.98, T) * math.pi / 2).square()
GROUPS = ((0, 3), (1, 2, 4))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_batch(latent=(2, 3, 3), seed=0):
    g = seeded(seed)
    latents = torch.randn(5, *latent, generator=g, dtype=torch.float64)
    return GroupBatch(latents, torch.randn(5, 4, generator=g, dtype=torch.float64), GROUPS)


def network(z, t, cond):
    """Any smooth function of all its arguments, each row by itself."""
    c = cond.sum(-1).view(-1, 1, 1, 1)
    return torch.sin(1.3 * z) * (1 + 0.1 * c) + 0.2 * torch.tanh(c) * (t / T).view(-1, 1, 1, 1)


def by_hand(batch, levels, config, draws, teacher):
    """L_SAGE with loops and scalars, as the design writes it."""
    terms = {"branch": [], "shared": [], "soft": []}
    for g, group in enumerate(batch.groups):
        members = [batch.latents[n] for n in group]
        c_bar = torch.stack([batch.cond[n] for n in group]).mean(0)
        t, eps = draws.shared_t[g], draws.shared_noise[g].double()
        x0s = {
            "members": members,
            "one_member": [batch.latents[draws.chosen[g]]],
            "mean": [sum(members) / len(members)],
        }[config.shared_latent]
        shared, soft, branch = [], [], []
        for x0 in x0s:
            z = ALPHAS[t].double().sqrt() * x0 + (1 - ALPHAS[t].double()).sqrt() * eps
            e_bar = network(z[None], t[None], c_bar[None])[0]
            outs = [teacher(z[None], t[None], batch.cond[n][None])[0] for n in group]
            w = levels.weight(t[None], config)[0]
            target = levels.target(x0[None], eps[None], t[None])[0]
            shared.append(w * (target - e_bar).square().mean())
            soft.append(w * (e_bar - sum(outs) / len(outs)).square().mean())
        for n in group:
            t, eps = draws.branch_t[n], draws.branch_noise[n].double()
            z = levels.noised(batch.latents[n][None], eps[None], t[None])
            out = network(z, t[None], batch.cond[n][None])
            target = levels.target(batch.latents[n][None], eps[None], t[None])
            branch.append(levels.weight(t[None], config)[0] * (target - out).square().mean())
        beta = draws.share_ratio[g] if config.phase_weights == "by_length" else None
        for name, values in (("branch", branch), ("shared", shared), ("soft", soft)):
            scale = 1 if beta is None else (1 - beta if name == "branch" else beta)
            terms[name].append(scale * sum(values) / len(values))
    mean = {name: sum(values) / len(values) for name, values in terms.items()}
    total = mean["branch"] + config.lambda_shared * mean["shared"]
    return mean | {"total": total + config.lambda_soft * mean["soft"]}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("shared_latent", ["members", "one_member", "mean"])
@pytest.mark.parametrize(
    ("weighting", "phases"),
    [("prediction", "equal"), ("epsilon", "by_length"), ("min_snr", "equal")],
)
def test_the_loss_is_the_formula(prediction, shared_latent, weighting, phases):
    config = LossConfig(
        0.7, 0.3, shared_latent=shared_latent, weighting=weighting, phase_weights=phases
    )
    levels, batch = NoiseLevels(ALPHAS, prediction), make_batch()

    def teacher(z, t, cond):
        return network(z, t, 0.5 * cond)

    terms = sage_loss(network, teacher, batch, levels, config, generator=seeded(5))
    draws = Draws.of(batch, config, T, seeded(5))
    for name, value in by_hand(batch, levels, config, draws, teacher).items():
        assert float(getattr(terms, name)) == pytest.approx(float(value), rel=1e-5)


def test_no_gradient_flows_into_the_soft_target():
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    seen = []

    def scaled(z, t, cond):
        seen.append(torch.is_grad_enabled())
        return scale * network(z, t, cond)

    config = LossConfig(lambda_shared=0.0, lambda_soft=1.0)
    terms = sage_loss(scaled, scaled, make_batch(), NoiseLevels(ALPHAS), config, generator=seeded())
    assert seen == [False, True]
    (gradient,) = torch.autograd.grad(terms.soft, scale)
    output = torch.randn(2, 4, requires_grad=True)
    members = torch.randn(5, 4, requires_grad=True)
    rows, owners = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1])
    soft_loss(output, members, rows, torch.ones(2), owners).backward()
    assert gradient != 0
    assert members.grad is None
    assert output.grad.abs().sum() > 0


def test_a_network_that_is_linear_in_the_condition_has_no_soft_loss():
    def linear(z, t, cond):
        return z + cond.mean(-1).view(-1, 1, 1, 1)

    terms = sage_loss(
        linear, linear, make_batch(), NoiseLevels(ALPHAS), LossConfig(), generator=seeded()
    )
    assert float(terms.soft) < 1e-12
    assert float(terms.shared) > 0.1


def test_without_soft_weight_the_teacher_is_not_asked():
    def teacher(z, t, cond):
        raise AssertionError

    config = LossConfig(lambda_soft=0.0)
    terms = sage_loss(
        network, teacher, make_batch(), NoiseLevels(ALPHAS), config, generator=seeded()
    )
    assert terms.soft is None
    total = terms.branch + config.lambda_shared * terms.shared
    assert float(terms.total) == pytest.approx(float(total))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_denoiser_of_one_picture_has_no_loss(prediction):
    """If all pictures are x0, ε = (z − s·x0)/n for any condition: every term is zero."""
    x0 = torch.randn(2, 3, 3, dtype=torch.float64, generator=seeded())
    batch = GroupBatch(x0.expand(5, -1, -1, -1).clone(), torch.randn(5, 4), GROUPS)
    levels = NoiseLevels(ALPHAS, prediction)

    def perfect(z, t, cond):
        a = ALPHAS[t].double().view(-1, 1, 1, 1)
        return levels.target(x0.expand_as(z), (z - a.sqrt() * x0) / (1 - a).sqrt(), t)

    for latent in ("members", "one_member", "mean"):
        config = LossConfig(shared_latent=latent)
        terms = sage_loss(perfect, perfect, batch, levels, config, generator=seeded())
        assert max(map(float, (terms.branch, terms.shared, terms.soft))) < 1e-12
    assert float(standard_loss(perfect, batch, levels, config, generator=seeded()).total) < 1e-12


def test_weights_turn_a_v_error_into_an_epsilon_error():
    """ε = n·z + s·v, so |Δε|² = ᾱ·|Δv|²: the same error counts the same in either prediction."""
    t = torch.arange(T)
    v, eps = NoiseLevels(ALPHAS, "v_prediction"), NoiseLevels(ALPHAS)
    snr = ALPHAS / (1 - ALPHAS)
    for weighting, gain in (("epsilon", ALPHAS), ("min_snr", ALPHAS)):
        config = LossConfig(weighting=weighting)
        assert (v.weight(t, config) - gain * eps.weight(t, config)).abs().max() < 1e-6
    expected = torch.minimum(snr, torch.tensor(5.0)) / snr
    assert (eps.weight(t, LossConfig(weighting="min_snr")) - expected).abs().max() < 1e-5
    assert v.weight(t, LossConfig(weighting="prediction")).eq(1).all()


def test_weights_are_finite_at_zero_signal():
    levels = NoiseLevels(torch.cat([ALPHAS, torch.zeros(1)]), "v_prediction")
    for weighting in ("prediction", "epsilon", "min_snr"):
        last = levels.weight(torch.tensor([T]), LossConfig(weighting=weighting))
        assert float(last) == (1.0 if weighting == "prediction" else 0.0)


def test_phases_do_not_overlap_and_cover_all_timesteps():
    batch, config = make_batch(), LossConfig(share_ratio=(0.4, 0.4))
    draws = [Draws.of(batch, config, 10, seeded(seed)) for seed in range(300)]
    assert {int(t) for d in draws for t in d.shared_t} == {6, 7, 8, 9}
    assert {int(t) for d in draws for t in d.branch_t} == {0, 1, 2, 3, 4, 5}
    assert {int(d.chosen[1]) for d in draws} == {1, 2, 4}


def test_share_ratios_fill_their_range():
    config = LossConfig(share_ratio=(0.2, 0.5))
    drawn = torch.cat(
        [Draws.of(make_batch(), config, T, seeded(seed)).share_ratio for seed in range(300)]
    )
    assert 0.2 <= float(drawn.min()) < 0.21
    assert 0.49 < float(drawn.max()) <= 0.5
    assert first_shared_timestep(torch.tensor([0.0, 0.4, 1.0]), T).tolist() == [999, 600, 1]


def test_draws_depend_on_the_generator_alone():
    one, two = (Draws.of(make_batch(), LossConfig(), T, seeded(3)) for _ in range(2))
    other = Draws.of(make_batch(), LossConfig(), T, seeded(4))
    assert torch.equal(one.branch_noise, two.branch_noise)
    assert torch.equal(one.shared_t, two.shared_t)
    assert not torch.equal(one.branch_noise, other.branch_noise)


def test_every_group_counts_the_same():
    errors, owners = torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([0, 0, 1])
    for term in (branch_loss, shared_loss):
        value = term(errors.sqrt(), torch.zeros(3, 1), torch.ones(3), owners)
        assert float(value) == pytest.approx((2.0 + 10.0) / 2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"lambda_soft": -1.0}, "lambda_soft"),
        ({"shared_latent": "medoid"}, "shared_latent"),
        ({"soft_target": "teacher"}, "soft_target"),
        ({"share_ratio": (0.5, 0.2)}, "share_ratio"),
        ({"share_ratio": (0.0, 0.2)}, "share_ratio"),
        ({"weighting": "snr"}, "weighting"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma"),
        ({"phase_weights": "none"}, "phase_weights"),
    ],
)
def test_a_wrong_setting_is_named(change, word):
    with pytest.raises(ValueError, match=word):
        replace(LossConfig(), **change)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="prediction is 'sample'"):
        NoiseLevels(ALPHAS, "sample")
    with pytest.raises(ValueError, match="zero signal"):
        NoiseLevels(torch.zeros(1))
    with pytest.raises(ValueError, match="members"):
        GroupBatch(torch.zeros(3, 1), torch.zeros(3, 1), ((0, 1),))


@pytest.mark.slow
def test_losses_and_metrics_load_nothing_but_torch():
    extra = loaded_by("import sage.core.losses, sage.core.metrics") - loaded_by("import torch")
    assert not extra & set(FOREIGN)


# --- twins ------------------------------------------------------------------------------------


def twin_batch(guided_by=0.0):
    g = seeded(4)
    like = torch.randn(5, 2, 3, 3, generator=g, dtype=torch.float64)
    cond = torch.randn(5, 4, generator=g, dtype=torch.float64)
    return TwinBatch(
        split=like,
        split_t=torch.tensor([600, 700, 700, 600, 700]),
        twins=torch.randn(like.shape, generator=g, dtype=torch.float64),
        cond=cond,
        uncond=torch.full((1, 4), guided_by, dtype=torch.float64),
        trunk=torch.randn(2, 2, 3, 3, generator=g, dtype=torch.float64),
        trunk_t=torch.tensor([800, 900]),
        groups=GROUPS,
    )


def guide(z, t, cond, uncond, guidance):
    without = network(z, t, uncond.expand_as(cond))
    return without + guidance * (network(z, t, cond) - without)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_twin_loss_is_the_formula(prediction, guidance):
    batch, levels = twin_batch(0.3), NoiseLevels(ALPHAS, prediction)
    config = LossConfig(lambda_shared=0.7, weighting="prediction")
    shift = lambda z, t, cond: network(z, t, cond) + 0.1  # noqa: E731
    terms = twin_loss(network, shift, batch, levels, config, guidance=guidance, generator=seeded(7))
    drawn = torch.rand(5, generator=seeded(7), dtype=torch.float64)
    t = (drawn * (batch.split_t + 1)).long()
    by_group = []
    for group in GROUPS:
        errors = []
        for n in group:
            a, b = ALPHAS[batch.split_t[n]].double(), ALPHAS[t[n]].double()
            x = batch.twins[n]
            eps = (batch.split[n] - a.sqrt() * x) / (1 - a).sqrt()
            z = b.sqrt() * x + (1 - b).sqrt() * eps
            target = eps if prediction == "epsilon" else b.sqrt() * eps - (1 - b).sqrt() * x
            says = network(z[None], t[n][None], batch.cond[n][None])
            if guidance > 1:
                says = guide(z[None], t[n][None], batch.cond[n][None], batch.uncond, guidance)
            errors.append((says[0] - target).square().mean())
        by_group.append(sum(errors) / len(errors))
    assert terms.branch.item() == pytest.approx(float(sum(by_group) / 2), rel=1e-5)
    # A constant added to both predictions passes through guidance as it is.
    assert terms.shared.item() == pytest.approx(0.01, rel=1e-5)
    assert terms.total.item() == pytest.approx((terms.branch + 0.7 * terms.shared).item())


def test_twin_loss_is_zero_for_a_network_that_knows_the_twins():
    """At the split itself, the straight way begins at the trunk's latent."""
    batch, levels = twin_batch(), NoiseLevels(ALPHAS, "v_prediction")
    a = ALPHAS[batch.split_t].double().view(-1, 1, 1, 1)
    eps = (batch.split - a.sqrt() * batch.twins) / (1 - a).sqrt()

    def knows(z, t, cond):
        if len(z) != 7:  # the frozen network, asked about the trunks
            return torch.zeros_like(z)
        b = ALPHAS[t[:5]].double().view(-1, 1, 1, 1)
        assert torch.allclose(z[:5], b.sqrt() * batch.twins + (1 - b).sqrt() * eps)
        v = b.sqrt() * eps - (1 - b).sqrt() * batch.twins
        return torch.cat([v, torch.zeros_like(z[5:])])

    terms = twin_loss(knows, knows, batch, levels, LossConfig(), guidance=1.0, generator=seeded())
    assert terms.total.item() < 1e-12
    assert torch.equal(levels.noised(batch.twins, eps, batch.split_t).float(), batch.split.float())
