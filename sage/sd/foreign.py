"""What diffusers and transformers do not say about their classes, said once.

Their networks, schedulers and pipelines keep settings in attributes made at run time, which a type
checker cannot know. Whoever reads those takes an argument of one of these kinds.
"""

from typing import Any

Pipeline = Any  # a DiffusionPipeline, whose result may be an object or a tuple
Scheduler = Any  # a SchedulerMixin with its timesteps, tables and config
Network = Any  # a ModelMixin or PreTrainedModel with its config
