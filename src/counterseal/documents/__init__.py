"""The hashed documents of the suite, parsed alike by every service: plan, tool, decision, approval.

Pure: values in, values out. A parser accepts canonical bytes only and refuses every unknown field, so that what a
digest covers and what a program understands are the same thing. JSON Schemas for other languages stand in `schemas/`.
"""
