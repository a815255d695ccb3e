//! Sentences about the fields that every object has, for `kubectl explain`.
//!
//! They are our own, but begin as upstream's do: its conformance suite looks for those beginnings.

/// What `apiVersion` is, in any object.
pub(super) const API_VERSION: &str =
    "APIVersion defines the group and version of the schema that this representation of the object follows.";
/// What `kind` is, in any object.
pub(super) const KIND: &str = "Kind names what this object represents, in CamelCase. It cannot be changed.";
/// What `metadata` is, in any object.
pub(super) const METADATA: &str = "Standard object's metadata.";

/// What a field of `ObjectMeta` is.
pub(super) fn of_object_meta(field: &str) -> Option<&'static str> {
    Some(match field {
        "annotations" => {
            "Annotations are notes of tools and people, with any content; nothing selects by them."
        }
        "creationTimestamp" => {
            "CreationTimestamp is a timestamp of the moment at which the server stored this object first. Clients \
             cannot set it."
        }
        "deletionGracePeriodSeconds" => "Seconds that an object has to end after its deletion was asked for.",
        "deletionTimestamp" => {
            "DeletionTimestamp is the moment after which the object may be gone; it is set when its deletion is asked \
             for, and never moves backwards."
        }
        "finalizers" => "Names of those who must act before the object goes; it goes when the list is empty.",
        "generateName" => {
            "A prefix to which the server adds characters of its own if the object brings no name."
        }
        "generation" => "Counts changes of the desired state.",
        "labels" => "Labels are short keys and values by which objects are selected.",
        "managedFields" => "Which field each manager has set, for server-side apply. Users need not read it.",
        "name" => {
            "Name of the object, unique among the objects of its kind in its namespace. It cannot be changed."
        }
        "namespace" => "Namespace in which the name must be unique. It cannot be changed.",
        "ownerReferences" => {
            "Objects on which this one depends: when all of them are gone, this one is deleted. At most one of them \
             is its controller."
        }
        "resourceVersion" => {
            "Names this state of the object, to notice changes by others and to go on watching. Clients compare and \
             return it, and read nothing into it."
        }
        "selfLink" => "Not filled any more.",
        "uid" => "UID tells the object from all others of any time, also from those that have had its name.",
        _ => return None,
    })
}
