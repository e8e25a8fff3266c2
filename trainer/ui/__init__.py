"""The Training tab: one code for Gradio 3.41 and 4.40; its differences are in `compat`."""
