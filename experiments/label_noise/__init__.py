"""Learning from wrong labels: cross-entropy against label-distributionally-robust and other robust losses."""
