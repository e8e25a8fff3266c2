"""Measuring what a training has done."""
