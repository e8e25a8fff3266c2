"""Every parameter declared once, and everything that follows from a declaration.

Needs the standard library alone, so that a form, a command line or a test can know the parameters
without loading torch.
"""
