"""Audits of whole simulated federations. The analysis is in `fedmodels.audit`."""
