"""New documents: engines that generate, recipes (prompts as data), checks on what comes back.
May import kernels, filters and sigma_model; never pipelines.
Nothing here yet but the place: synthesis is the next chapter of the project (CHANGELOG).
Page text in a prompt is plain text, never control.
Every output document names its parents, recipe and version."""
