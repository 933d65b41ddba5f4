//! Who must act on which error.

use scylla::errors::{BadQuery, DbError, ExecutionError, RequestAttemptError, WriteType};

use super::*;

fn answered(error: DbError, message: &str) -> ExportError {
    classify(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, message.to_owned())))
}

fn kind(error: &ExportError) -> &'static str {
    match error {
        ExportError::Retry { after: None, .. } => "retry",
        ExportError::Retry { .. } => "retry slowly",
        ExportError::Drop { .. } => "drop",
        ExportError::Fatal { .. } => "fatal",
        ExportError::Partial { .. } => "partial",
    }
}

#[test]
fn errors_of_the_cluster_are_sorted_by_who_must_act() {
    let timeout = || DbError::WriteTimeout {
        consistency: Level::LocalQuorum,
        received: 1,
        required: 2,
        write_type: WriteType::UnloggedBatch,
    };
    let unavailable = || DbError::Unavailable { consistency: Level::LocalQuorum, required: 2, alive: 1 };
    let table = [
        (timeout(), "Operation timed out", "retry"),
        (unavailable(), "Cannot achieve consistency", "retry"),
        (DbError::Overloaded, "busy", "retry"),
        (DbError::IsBootstrapping, "starting", "retry"),
        (DbError::ServerError, "java.lang.NullPointerException", "retry"),
        (DbError::TruncateError, "truncate", "retry"),
        (DbError::Unprepared { statement_id: vec![1].into() }, "unprepared", "retry"),
        (DbError::Invalid, "Guardrail data_disk_usage_percentage violated: Write request failed", "retry slowly"),
        (DbError::Invalid, "unconfigured table logs_v1", "fatal"),
        (DbError::Invalid, "Keyspace 'otel' does not exist", "fatal"),
        (DbError::Invalid, "Mutation of 20MiB is too large for the maximum size of 16MiB", "drop"),
        (DbError::SyntaxError, "line 1:0 no viable alternative", "drop"),
        (DbError::AuthenticationError, "Bad credentials", "fatal"),
        (DbError::Unauthorized, "User logs has no MODIFY permission", "fatal"),
    ];
    for (error, message, expected) in table {
        let found = answered(error, message);
        assert_eq!(kind(&found), expected, "{message}");
        assert!(found.to_string().starts_with("cassandra: "), "{found}");
    }
}

#[test]
fn a_silent_or_empty_cluster_is_tried_again() {
    let silent = classify(&ExecutionError::RequestTimeout(Duration::from_secs(5)));
    assert_eq!(kind(&silent), "retry");
    assert_eq!(kind(&classify(&ExecutionError::EmptyPlan)), "retry");
}

#[test]
fn what_can_never_be_sent_is_dropped() {
    let too_many = ExecutionError::BadQuery(BadQuery::TooManyQueriesInBatchStatement(70_000));
    assert_eq!(kind(&classify(&too_many)), "drop");
}
