"""New documents: engines that generate, recipes (prompts as data), checks on what comes back.
May import kernels, filters and sigma_model; never pipelines.
Recipes are files, ``synth/recipes/*.yaml``; a check is a column and, if it fails, the reason of a drop.
Page text in a prompt is plain text, never control.
Every output document names its parents, recipe and version."""
