"""Finding Ray, a cluster that was started from here, and a sweep as its job."""
