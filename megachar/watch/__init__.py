"""What runs beside training so that a failure anywhere ends a run everywhere. Imports no torch."""
