"""The tab "Studio": prompts, groups, plan and pictures."""
