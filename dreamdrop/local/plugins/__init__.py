"""What MiniStack lacks or does differently from AWS, plugged into its private seams.

Every module here says which wart of MiniStack it mends. tests/unit/test_ministack_seams.py inspects each private name.
"""
