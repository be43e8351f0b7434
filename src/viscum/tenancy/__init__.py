"""Tenants: third parties that run services of their own on this box, and what each may have.

`types` (what a tenant's file says), `files` (reading them), `rules` (a spec held against it),
`quota` (what its services use). Plain data, no kernel and no controller: every command keeps to it.
"""
