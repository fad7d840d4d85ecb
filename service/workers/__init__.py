"""What a worker needs beside its searches: its lease, its processes, and who watches over it."""
