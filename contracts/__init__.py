"""The shared vocabulary: every field, key, limit and default of Dreamdrop exists once, here.

Standard library and pydantic only. Imports nothing else of ours and does no I/O.
"""
