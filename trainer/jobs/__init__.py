"""The queue: what a job is, where jobs are kept, and the one thread that works them off."""
