"""The name under which grouping many captions was found before it moved to the core."""

from sage.core.grouping_at_scale import GroupingRule, form_groups

__all__ = ["GroupingRule", "form_groups"]
