"""How fast a step is, against the bare UNet and against a plain loop, in one run."""
