"""The log of what any local user can cause, held within bounds."""

import logging

from meshd.api.complaints import Dam

complaints = logging.getLogger(__name__)
complaints.addFilter(Dam())
