"""What the page and other programs may ask: a status route, job actions, checks, presets, runs.

Only `app`, `guard` and the modules of routes import fastapi; the rest is plain functions with JSON
values.
"""
