"""The trainer with real processes: joins, leaves, kills, suspensions."""
