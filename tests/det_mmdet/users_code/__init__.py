"""Modules as users of MMDetection have them, with MMDetection's import lines.

They cannot be imported as they stand. The tests change their import lines with ``detcore migrate`` and run
what comes out; nothing else in them is adapted.
"""
