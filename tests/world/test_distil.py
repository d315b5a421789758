"""Few steps: the target is the point from which one step does what the teacher did."""

import pytest
import torch

from sage.core.solver import DDIM
from sage.sd.pipeline import SagePipeline
from sage.training.adapter import Adapter
from sage.world.train.distil import TARGETS, DistilSettings, ladder, run, target

CPU = torch.device("cpu")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_one_ddim_step_from_the_target_lands_where_the_teacher_landed(prediction):
    """Levels down from ᾱ; the student that predicts the target takes its own single step."""
    levels = [0.05, 0.3, 0.6, 1.0]
    a, b = (torch.tensor(levels[i]).view(1, 1, 1, 1).expand(4, 1, 1, 1) for i in (0, 3))
    x, after = torch.randn(2, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    for end in (1, 2, 3):
        b = torch.tensor(levels[end]).view(1, 1, 1, 1)
        clean = target(x, after, a, b)
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        output = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
        solver = DDIM.from_alphas([0], levels[:1], levels[end : end + 1], prediction=prediction)
        index = torch.zeros(4, dtype=torch.long)
        landed, x0, _ = solver.step(x, output, index, (), index)
        assert (landed - after).abs().max() < 1e-4
        assert (x0 - clean).abs().max() < 1e-4


@pytest.mark.parametrize("steps", [4, 8])
def test_the_students_levels_are_those_it_is_sampled_at_and_the_teachers_lie_between(tiny, steps):
    from sage.core.noise import Streams
    from sage.sd.schedulers import solver_for

    tiny.scheduler = type(tiny.scheduler).from_config(
        tiny.scheduler.config,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        set_alpha_to_one=True,
    )
    t, levels = ladder(tiny, steps)
    solver = solver_for(tiny.scheduler, steps, "cpu", Streams([0], (4, 8, 8)))
    assert solver.timesteps.tolist() == t
    after = torch.tensor(levels[1:]).sqrt()
    assert (solver.after[:, 0] - after).abs().max() < 1e-6
    fine, between = ladder(tiny, 16)
    assert fine[:: 16 // steps] == t
    assert between[:: 16 // steps] == levels


@pytest.mark.parametrize("steps", [0, 3, 16])
def test_a_teacher_that_is_no_multiple_is_refused(steps):
    with pytest.raises(ValueError, match="must be a multiple"):
        DistilSettings(steps=steps)


@pytest.mark.slow
def test_a_student_is_trained_saved_and_described(tiny_folder, tmp_path):
    settings = DistilSettings(
        steps=1, teacher_steps=2, rank=2, stored_rank=1, batch=2, scenes=24
    )  # fmt: skip
    out = run(str(tiny_folder), settings, 0.0005, tmp_path / "student", False, CPU)
    assert {"pytorch_lora_weights.safetensors", "distil.json", "README.md", "sage.json"} <= {
        file.name for file in out.iterdir()
    }
    with pytest.raises(ValueError, match="holds a run already"):
        run(str(tiny_folder), settings, 0.0005, out, False, CPU)


@pytest.mark.slow
def test_every_layer_of_the_student_is_saved_and_loaded(tiny, tiny_folder, tmp_path):
    adapter = Adapter(tiny.unet, 2, 2.0, TARGETS)
    generator = torch.Generator().manual_seed(0)
    adapter.average = [0.1 * torch.randn(v.shape, generator=generator) for v in adapter.values]
    adapter.save(tmp_path)
    z, t, c = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 16, 32)
    with torch.no_grad():
        with adapter.averaged():
            average = tiny.unet(z, t, c).sample
        other = SagePipeline.from_pretrained(tiny_folder)
        other.use_lora(tmp_path)
        loaded = other.unet(z, t, c).sample
    assert (loaded - average).abs().max() < 1e-5
