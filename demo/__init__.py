"""The demo's data and the programs that load and show it. They use Seedvec as any program would: over HTTP."""
