"""All attacks, in the order of the table."""

from tests.attacks.lab import Row
from tests.attacks.rows.access import ACCESS
from tests.attacks.rows.bodies import BODIES
from tests.attacks.rows.budgets import BUDGETS
from tests.attacks.rows.chains import CHAINS
from tests.attacks.rows.changes import CHANGES
from tests.attacks.rows.conversations import CONVERSATIONS
from tests.attacks.rows.developers import DEVELOPERS
from tests.attacks.rows.fetches import FETCHES
from tests.attacks.rows.http import HTTP
from tests.attacks.rows.inspected import INSPECTED
from tests.attacks.rows.marks import MARKS_OF_THE_PROXY
from tests.attacks.rows.media import MEDIA
from tests.attacks.rows.neighbours import NEIGHBOURS
from tests.attacks.rows.own_calls import OWN_CALLS
from tests.attacks.rows.people import PEOPLE
from tests.attacks.rows.plugins import PLUGINS
from tests.attacks.rows.provisioning import PROVISIONING
from tests.attacks.rows.redirects import REDIRECTS
from tests.attacks.rows.replies import REPLIES
from tests.attacks.rows.schemas import SCHEMAS
from tests.attacks.rows.services import SERVICES
from tests.attacks.rows.sign_in import SIGN_IN
from tests.attacks.rows.spans import SPANS
from tests.attacks.rows.spending import SPENDING
from tests.attacks.rows.summaries import SUMMARIES
from tests.attacks.rows.telemetry import TELEMETRY
from tests.attacks.rows.texts import TEXTS
from tests.attacks.rows.tiers import TIERS
from tests.attacks.rows.verdicts import VERDICTS
from tests.attacks.rows.verdicts_lines import LINES
from tests.attacks.rows.verdicts_wholes import WHOLES
from tests.attacks.rows.verdicts_wires import WIRES
from tests.attacks.rows.verdicts_words import WORDS
from tests.attacks.rows.work import WORK

ROWS: tuple[Row, ...] = (
    *SCHEMAS,
    *CONVERSATIONS,
    *BODIES,
    *REPLIES,
    *HTTP,
    *VERDICTS,
    *WORDS,
    *LINES,
    *WHOLES,
    *WIRES,
    *OWN_CALLS,
    *TEXTS,
    *SPENDING,
    *SIGN_IN,
    *NEIGHBOURS,
    *PEOPLE,
    *PROVISIONING,
    *BUDGETS,
    *TELEMETRY,
    *INSPECTED,
    *MEDIA,
    *MARKS_OF_THE_PROXY,
    *SUMMARIES,
    *WORK,
    *ACCESS,
    *FETCHES,
    *SERVICES,
    *PLUGINS,
    *CHAINS,
    *SPANS,
    *CHANGES,
    *TIERS,
    *REDIRECTS,
    *DEVELOPERS,
)
