"""The controller: what needs a clock. One asyncio process over the library calls the CLI uses.

Nothing on the data path depends on it: it may be killed at any moment, and the next one adopts what
it finds. Each duty is a part with a file of its own; `main` puts them together.
"""
