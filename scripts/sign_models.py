"""Sign a file with facts about models for `anthropic-proxy models update`, or make a pair of keys.

    sign_models.py KEY OUTPUT [FILE]    sign FILE, by default the facts of this checkout
    sign_models.py --new-key KEY        write a new private key, and print the public one

KEY is a file with a private key (Ed25519, PEM), which never belongs into the repository. FACTS_KEY in
anthropic_proxy/gateway/settings/facts_file.py is the public one.
"""

import sys

from environments import PYTHON, run

if len(sys.argv) < 3:
    sys.exit(__doc__)
run(PYTHON, "-m", "tests.facts.sign_models", *sys.argv[1:])
