"""The verbs of the API over the store: what each does to objects, and when it refuses. Knows nothing of HTTP."""

import base64
import copy
import json
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.kubernetes import definitions, models, patches, refusals, schema
from tests.support.kubernetes.core import ACCOUNTS, BUILT_IN, NAMESPACES, NODES, PODS
from tests.support.kubernetes.definitions import DEFINITIONS
from tests.support.kubernetes.installed import INSTALLED
from tests.support.kubernetes.kinds import Kind, Object
from tests.support.kubernetes.refusals import Refused, bad_request
from tests.support.kubernetes.selectors import Matches, by_fields, by_labels
from tests.support.kubernetes.store import Key, Store, TooOld

_TOO_OLD_TOKEN = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True)
class Place:
    """What a request is about: a kind, and where of it. `name` is empty for all of them."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return self.namespace if self.kind.namespaced else "", self.name


@dataclass
class Answer:
    code: int
    body: Any
    warnings: tuple[str, ...] = ()


class Api:
    """`author` is the field manager, which clients give by their User-Agent."""

    def __init__(self) -> None:
        self.store = Store()
        self.kinds: dict[tuple[str, str, str], Kind] = {}
        for kind in (*BUILT_IN, *INSTALLED, DEFINITIONS):
            self.kinds[kind.group, kind.version, kind.plural] = kind
        for name in ("default", "kube-system"):
            self.create(Place(NAMESPACES), {"metadata": {"name": name}}, "kube-apiserver")

    # --- reading

    def get(self, place: Place) -> Object:
        found = self.store.get(place.kind.key, place.key)
        if found is None:
            raise refusals.not_found(place.kind.plural, place.kind.group, place.name)
        return _typed(found, place.kind)

    def selector(self, place: Place, query: Mapping[str, str]) -> Matches:
        """What a list or a watch is to show of a kind."""
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        what = f"{place.kind.group}/{place.kind.version}, Resource={place.kind.plural}"
        by_label, by_field = by_labels(labels), by_fields(fields, place.kind.selectable, what, labels)

        def matches(each: Object) -> bool:
            here = place.namespace in ("", each["metadata"].get("namespace", ""))
            return here and by_label(each) and by_field(each)

        return matches

    def list(self, place: Place, query: Mapping[str, str]) -> Object:
        kind, matches, limit = place.kind, self.selector(place, query), int(query.get("limit", "0") or 0)
        after: Key | None = None
        if token := query.get("continue"):
            version, after = self._continued(token, place)
        else:
            version = self._version(query)
        try:
            objects = self.store.all(kind.key, version)
        except TooOld as error:
            if after is not None:
                start = f"{after[1]}\0" if place.namespace else f"{after[0]}/{after[1]}\0"
                raise refusals.expired(_TOO_OLD_TOKEN, _token(-1, start, padded=True)) from error
            raise refusals.expired("The resourceVersion for the provided list is too old.") from error
        shown = [(key, each) for key, each in objects.items() if matches(each) and (after is None or key > after)]
        shown_version = self.store.version if version is None else version
        meta: Object = {"continue": ""} if kind.schema is not None else {}
        meta["resourceVersion"] = str(shown_version)
        if limit and len(shown) > limit:
            last = shown[limit - 1][0]
            start = last[1] if place.namespace or not kind.namespaced else "/".join(last)
            meta["continue"] = _token(shown_version, f"/{start}\0")
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                meta["remainingItemCount"] = len(shown) - limit
            shown = shown[:limit]
        items = [_typed(each, kind) if kind.schema is not None else _bare(each) for _, each in shown]
        return {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}

    def _version(self, query: Mapping[str, str]) -> int | None:
        """The version that a list is to be of; None for the latest."""
        match, text = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
        if match and not text:
            why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            raise _options(refusals.Cause("resourceVersionMatch", f"Forbidden: {why}", "FieldValueForbidden"))
        version = parse_version(text)
        if version > self.store.version:
            raise refusals.too_large(version, self.store.version)
        return version if match == "Exact" else None

    def _continued(self, token: str, place: Place) -> tuple[int | None, Key]:
        """(version, the key after which the list goes on) of a continue token."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError as error:
            raise _bad_token("illegal base64 data at input byte 0") from error
        try:
            said = json.loads(raw)
            version, start = int(said["rv"]), str(said["start"])
        except (ValueError, KeyError, TypeError) as error:
            first = raw[:1].decode("latin-1")
            shown = first if first.isascii() and first.isprintable() else f"\\u{ord(first):04x}"
            raise _bad_token(f"invalid character '{shown}' looking for beginning of value") from error
        path = start.strip("/").removesuffix("\0")
        namespace, _, name = path.rpartition("/")
        return (None if version < 0 else version), (namespace or place.key[0], name)

    # --- writing

    def prepared(self, place: Place, content: Object, author: str, strict: str = "Warn") -> Object:
        """content as webhooks are shown it before it is made: whole, and admitted by what is built in."""
        content = copy.deepcopy(content)
        self._check_namespace(place, content.setdefault("metadata", {}))
        self._complete(place.kind, content, None, strict)
        self._admit(place, content)
        if place.kind is PODS:
            content["status"] = {}
        content = {"metadata": content.pop("metadata"), **content}
        if "annotations" in content["metadata"] and not content["metadata"]["annotations"]:
            del content["metadata"]["annotations"]
        _managed(place.kind, content, author, "")
        return content

    def create(self, place: Place, content: Object, author: str, *, dry: bool = False, strict: str = "Warn") -> Answer:
        kind, content = place.kind, copy.deepcopy(content)
        meta = content.setdefault("metadata", {})
        self._check_namespace(place, meta)
        if meta.get("resourceVersion"):
            raise Refused(500, "", "resourceVersion should not be set on objects to be created")
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        warnings = self._complete(kind, content, None, strict)
        meta = content["metadata"]
        self._admit(place, content)
        key = Place(kind, place.namespace, meta.get("name", "")).key
        if causes := kind.wrong(content, None):
            raise refusals.unprocessable(kind.name, kind.group, meta.get("name", ""), causes)
        if self.store.get(kind.key, key) is not None:
            raise refusals.exists(kind.plural, kind.group, meta["name"])
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            meta.pop(name, None)
        if kind.counts_generations:
            meta["generation"] = 1
        if kind.schema is not None and kind.has_status:
            content.pop("status", None)
        _managed(kind, content, author, "")
        if dry:
            return Answer(201, _typed(content, kind), warnings)
        kept = self.store.put(kind.key, key, content)
        self._created(kind, kept)
        return Answer(201, _typed(kept, kind), warnings)

    def _check_namespace(self, place: Place, meta: Object) -> None:
        if not place.kind.namespaced:
            meta.pop("namespace", None)
            return
        if meta.setdefault("namespace", place.namespace) != place.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        space = self.store.get(NAMESPACES.key, ("", place.namespace))
        if space is None:
            raise refusals.not_found("namespaces", "", place.namespace)
        if space["status"]["phase"] == "Terminating":
            why = f"unable to create new content in namespace {place.namespace} because it is being terminated"
            raise refusals.forbidden(place.kind.plural, place.kind.group, meta.get("name", ""), why)

    def _complete(self, kind: Kind, content: Object, old: Object | None, strict: str) -> tuple[str, ...]:
        """Prune and default; the warnings of fields that were dropped."""
        warnings: tuple[str, ...] = (kind.warning,) if kind.warning else ()
        if kind.schema is not None:
            whole, dropped = schema.pruned(content, dict(kind.schema))
            content.clear()
            content.update(whole)
            said = tuple(f'unknown field "{path}"' for path in dropped)
            if said and strict == "Strict":
                raise bad_request(
                    f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: '
                    f"strict decoding error: {', '.join(said)}"
                )
            warnings += said if strict != "Ignore" else ()
        if kind.model:
            warnings += self._held_to_model(kind, content, strict)
        kind.whole(content, old)
        return warnings

    def _held_to_model(self, kind: Kind, content: Object, strict: str) -> tuple[str, ...]:
        """Refused when content is not of the kind's type; the warnings of fields that are none, which are not kept by a
        real server either: who relies on them finds out here."""
        refusal = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: '
        if why := models.misfit(kind.model, content):
            raise bad_request(refusal + why)
        said = tuple(f'unknown field "{path}"' for path in models.unknown(kind.model, content))
        if said and strict == "Strict":
            raise bad_request(f"{refusal}strict decoding error: {', '.join(said)}")
        return said if strict != "Ignore" else ()

    def _admit(self, place: Place, content: Object) -> None:
        """What the admission that is built in does to a new object; webhooks come after it (`webhooks`)."""
        if place.kind is PODS:
            name = content["spec"]["serviceAccountName"]
            if self.store.get(ACCOUNTS.key, (place.namespace, name)) is None:
                why = f'error looking up service account {place.namespace}/{name}: serviceaccount "{name}" not found'
                raise refusals.forbidden("pods", "", content["metadata"].get("name", ""), why)
            node = self.store.get(NODES.key, ("", content["spec"].get("nodeName", "")))
            for label, value in ((node or {}).get("metadata", {}).get("labels") or {}).items():
                if label.startswith("topology.kubernetes.io/"):
                    content["metadata"].setdefault("labels", {})[label] = value

    def _created(self, kind: Kind, content: Object) -> None:
        """What the controllers do."""
        name = content["metadata"]["name"]
        if kind is NAMESPACES:
            account = {"metadata": {"name": "default"}}
            self.create(Place(ACCOUNTS, name), account, "kube-controller-manager")
        elif kind is DEFINITIONS:
            content = definitions.established(copy.deepcopy(content), now())
            _managed(kind, content, "kube-apiserver", "status")
            self.store.put(kind.key, ("", name), content)
            for made in definitions.kinds_of(content):
                self.kinds[made.group, made.version, made.plural] = made

    def update(self, place: Place, content: Object, author: str, *, dry: bool = False, strict: str = "Warn") -> Answer:
        old, kind = self.get(place), place.kind
        content = copy.deepcopy(content)
        meta = content.setdefault("metadata", {})
        if meta.setdefault("name", place.name) != place.name:
            raise bad_request("the name of the object (" + meta["name"] + ") does not match the name on the URL")
        self._check_namespace_of_update(place, meta)
        if kind.schema is not None and not meta.get("resourceVersion"):
            cause = refusals.Cause("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")
            raise refusals.unprocessable(kind.name, kind.group, place.name, [cause])
        return self._replace(place, old, content, author, dry, strict)

    def _check_namespace_of_update(self, place: Place, meta: Object) -> None:
        if place.kind.namespaced and meta.setdefault("namespace", place.namespace) != place.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")

    def patch(
        self, place: Place, patch: Any, media: str, author: str, *, dry: bool = False, strict: str = "Warn"
    ) -> Answer:
        kind = place.kind
        known = (patches.MERGE, patches.JSON) if kind.schema is not None else (
            patches.MERGE, patches.JSON, patches.STRATEGIC
        )  # fmt: skip
        if media not in known:
            raise refusals.unsupported_media_type()
        old = self.get(place)
        return self._replace(place, old, patches.patched(old, patch, media), author, dry, strict)

    def _replace(self, place: Place, old: Object, content: Object, author: str, dry: bool, strict: str) -> Answer:
        kind, meta = place.kind, content["metadata"]
        if (version := meta.get("resourceVersion")) and version != old["metadata"]["resourceVersion"]:
            raise refusals.conflict(kind.plural, kind.group, place.name)
        if meta.get("uid") and meta["uid"] != old["metadata"]["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {old['metadata']['uid']}"
            )
            raise refusals.conflict(kind.plural, kind.group, place.name, why)
        content = self._limited(place, old, content)
        warnings = self._complete(kind, content, old, strict)
        meta = content["metadata"]
        for name in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "managedFields"):
            meta.pop(name, None)
            if name in old["metadata"]:
                meta[name] = copy.deepcopy(old["metadata"][name])
        if causes := kind.wrong(content, old):
            raise refusals.unprocessable(kind.name, kind.group, place.name, causes)
        if kind.counts_generations and _counted(content, kind) != _counted(old, kind):
            meta["generation"] += 1
        if _same(old, content):
            return Answer(200, old, warnings)
        _managed(kind, content, author, place.subresource)
        if dry:
            return Answer(200, _typed(content, kind), warnings)
        kept = self.store.put(kind.key, place.key, content)
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and kind is not PODS:
            self.store.remove(kind.key, place.key)
        return Answer(200, _typed(kept, kind), warnings)

    def _limited(self, place: Place, old: Object, content: Object) -> Object:
        """content as far as a request to this subresource may change it."""
        if place.subresource == "status":
            return copy.deepcopy(old) | {"status": content.get("status", {})}
        if place.kind.has_status:
            content.pop("status", None)
            if "status" in old:
                content["status"] = copy.deepcopy(old["status"])
        return content

    def delete(self, place: Place, options: Object, author: str) -> Answer:
        kind, old = place.kind, copy.deepcopy(self.get(place))
        self._check_preconditions(place, options, old)
        if kind is NAMESPACES:
            return Answer(200, self._terminated(place, old))
        grace = options.get("gracePeriodSeconds")
        if kind is PODS:
            waits = old["spec"].get("nodeName") and grace != 0 and old["status"]["phase"] not in ("Succeeded", "Failed")
            if waits:  # for the kubelet
                seconds = old["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
                old["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": seconds}
                return Answer(200, _typed(self.store.put(kind.key, place.key, old), kind))
        if old["metadata"].get("finalizers"):
            if not old["metadata"].get("deletionTimestamp"):
                old["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
                old = self.store.put(kind.key, place.key, old)
            return Answer(200, _typed(old, kind))
        gone = self.store.remove(kind.key, place.key)
        self._deleted(kind, gone)
        if kind.returns_deleted:
            return Answer(200, _typed(gone, kind))
        details = refusals.details(kind.plural, kind.group, place.name) | {"uid": gone["metadata"]["uid"]}
        return Answer(200, _success(details))

    def _check_preconditions(self, place: Place, options: Object, old: Object) -> None:
        for name, called in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            wanted, has = (options.get("preconditions") or {}).get(name), old["metadata"][name]
            if wanted and wanted != has:
                why = f"Precondition failed: {called} in precondition: {wanted}, {called} in object meta: {has}"
                raise refusals.conflict(place.kind.plural, place.kind.group, place.name, why)

    def _deleted(self, kind: Kind, gone: Object) -> None:
        if kind is not DEFINITIONS:
            return
        for made in definitions.kinds_of(gone):
            del self.kinds[made.group, made.version, made.plural]
            for key in self.store.all(made.key):
                self.store.remove(made.key, key)

    def _terminated(self, place: Place, space: Object) -> Object:
        """A namespace goes with all that is in it, and what is in it goes first."""
        space["metadata"]["deletionTimestamp"] = now()
        space["status"] = {"phase": "Terminating"}
        said = self.store.put(NAMESPACES.key, place.key, space)
        for kind in {kind.key: kind for kind in self.kinds.values() if kind.namespaced}.values():
            for key in self.store.all(kind.key):
                if key[0] == place.name:
                    self.store.remove(kind.key, key)
        self.store.remove(NAMESPACES.key, place.key)
        return _typed(said, NAMESPACES)

    def delete_all(self, place: Place, query: Mapping[str, str], options: Object, author: str) -> Answer:
        found = self.list(place, query)
        for each in found["items"]:
            meta = each["metadata"]
            self.delete(Place(place.kind, meta.get("namespace", ""), meta["name"]), options, author)
        return Answer(200, found)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def parse_version(text: str) -> int:
    try:
        return int(text or "0")
    except ValueError as error:
        why = f'strconv.ParseUint: parsing "{text}": invalid syntax'
        raise _options(refusals.invalid("resourceVersion", f'"{text}"', why)) from error


def _options(cause: refusals.Cause) -> Refused:
    return refusals.unprocessable("ListOptions", "meta.k8s.io", "", [cause])


def _bad_token(why: str) -> Refused:
    return bad_request(f"invalid continue token: continue key is not valid: {why}")


def _token(version: int, start: str, *, padded: bool = False) -> str:
    said = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start}, separators=(",", ":"))
    text = base64.urlsafe_b64encode(said.encode()).decode()
    return text if padded else text.rstrip("=")


def _typed(content: Object, kind: Kind) -> Object:
    return {"kind": kind.name, "apiVersion": kind.api_version} | content


def _bare(content: Object) -> Object:
    return {key: value for key, value in content.items() if key not in ("kind", "apiVersion")}


def _counted(content: Object, kind: Kind) -> Object:
    """What of an object makes a new generation when it changes."""
    skip = {"metadata", "kind", "apiVersion"} | ({"status"} if kind.has_status else set())
    return {key: value for key, value in content.items() if key not in skip}


def _same(old: Object, content: Object) -> bool:
    """Whether nothing would change: then nothing does, the version neither."""

    def shown(each: Object) -> Object:
        return _bare(each) | {"metadata": each["metadata"] | {"resourceVersion": ""}}

    return shown(old) == shown(content)


def _managed(kind: Kind, content: Object, author: str, subresource: str) -> None:
    """Note who wrote, and drop what is empty; which fields were written the double does not keep."""
    for name in ("labels", "annotations", "finalizers", "ownerReferences"):
        if content["metadata"].get(name) in ({}, [], None):
            content["metadata"].pop(name, None)
    entry = {
        "manager": author, "operation": "Update", "apiVersion": kind.api_version, "time": now(),
        "fieldsType": "FieldsV1", "fieldsV1": {},
    }  # fmt: skip
    if subresource:
        entry["subresource"] = subresource
    entries = content["metadata"].setdefault("managedFields", [])
    same = [each for each in entries if (each["manager"], each.get("subresource", "")) == (author, subresource)]
    for each in same:
        entries.remove(each)
    entries.append(entry)
    entries.sort(key=lambda each: (each["manager"], each.get("subresource", "")))


def _success(details: Object) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
