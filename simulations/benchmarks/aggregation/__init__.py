"""The contenders of `fedmodels bench secagg`, one file each, and what they are measured against."""
