"""Who asks, what they may, and who did what: tokens, tenants, quotas, the audit log."""
