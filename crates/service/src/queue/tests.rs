//! Conservation, bounds, order and closing of the queue.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn items_come_out_in_order_and_their_bytes_are_free_again() {
    let (sender, mut receiver) = bounded(3, 100);
    for item in 0..3 {
        sender.try_send(item, 10).unwrap();
    }
    assert_eq!((sender.len(), sender.bytes()), (3, 30));
    for item in 0..3 {
        assert_eq!(receiver.recv().await, Some(item));
    }
    assert_eq!((sender.len(), sender.bytes()), (0, 0));
}

#[test]
fn each_bound_refuses_on_its_own_and_gives_the_item_back() {
    let (sender, mut receiver) = bounded(2, 100);
    sender.try_send('a', 1).unwrap();
    sender.try_send('b', 1).unwrap();
    assert_eq!(sender.try_send('c', 1), Err(TrySendError::Full('c')));
    assert_eq!(receiver.try_recv(), Some('a'));
    assert_eq!(sender.try_send('c', 100), Err(TrySendError::Full('c')));
    assert_eq!(sender.try_send('c', 101), Err(TrySendError::TooLarge('c')));
    assert_eq!(sender.try_send('c', 99), Ok(()));
    assert_eq!(sender.bytes(), 100);
    assert_eq!(TrySendError::Full('x').reason(), "queue_full");
}

#[tokio::test]
async fn a_closed_queue_takes_nothing_and_still_hands_out_what_it_holds() {
    let (sender, mut receiver) = bounded(4, 100);
    sender.try_send(1, 1).unwrap();
    sender.close();
    assert_eq!(sender.try_send(2, 1), Err(TrySendError::Closed(2)));
    assert_eq!(sender.send(2, 1).await, Err(TrySendError::Closed(2)));
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(receiver.recv().await, None);
    assert!(receiver.is_ended());
}

#[tokio::test]
async fn the_last_sender_to_go_closes_the_queue_and_wakes_the_receiver() {
    let (sender, mut receiver) = bounded::<u8>(4, 100);
    let second = sender.clone();
    let ended = tokio::spawn(async move { receiver.recv().await });
    tokio::task::yield_now().await;
    drop(sender);
    tokio::task::yield_now().await;
    assert!(!ended.is_finished());
    drop(second);
    assert_eq!(ended.await.unwrap(), None);
}

#[tokio::test]
async fn a_receiver_that_goes_closes_the_queue_and_wakes_waiting_senders() {
    let (sender, receiver) = bounded(1, 100);
    sender.try_send(1, 1).unwrap();
    let waiting = tokio::spawn({
        let sender = sender.clone();
        async move { sender.send(2, 1).await }
    });
    tokio::task::yield_now().await;
    drop(receiver);
    assert_eq!(waiting.await.unwrap(), Err(TrySendError::Closed(2)));
    assert!(sender.is_closed());
}

#[tokio::test]
async fn waiting_senders_are_served_in_order_and_try_send_does_not_pass_them() {
    let (sender, mut receiver) = bounded(1, 100);
    sender.try_send(0, 1).unwrap();
    let mut waiting = Vec::new();
    for item in 1..=5 {
        let sender = sender.clone();
        waiting.push(tokio::spawn(async move { sender.send(item, 1).await }));
        tokio::task::yield_now().await;
    }
    for item in 0..=5 {
        assert_eq!(receiver.recv().await, Some(item));
        if item < 5 {
            assert_eq!(sender.try_send(99, 1), Err(TrySendError::Full(99)));
        }
    }
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_given_up_puts_nothing_in_and_leaks_no_room() {
    let (sender, mut receiver) = bounded(2, 10);
    sender.try_send(1, 8).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), sender.send(2, 8)).await.is_err());
    assert_eq!((sender.len(), sender.bytes()), (1, 8));
    assert_eq!(receiver.recv().await, Some(1));
    sender.try_send(3, 10).unwrap();
    assert_eq!(receiver.recv().await, Some(3));
    assert_eq!(receiver.try_recv(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_senders_and_a_receiver_lose_and_double_nothing() {
    let (sender, mut receiver) = bounded(7, 50);
    let sending: Vec<_> = (0..8_u32)
        .map(|who| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for number in 0..500_u32 {
                    sender.send((who, number), (number % 20) as usize).await.unwrap();
                }
            })
        })
        .collect();
    drop(sender);
    let mut next = [0_u32; 8];
    while let Some((who, number)) = receiver.recv().await {
        assert_eq!(number, next[who as usize], "items of one sender keep their order");
        next[who as usize] += 1;
        assert!(receiver.len() <= 7 && receiver.bytes() <= 50);
    }
    assert_eq!(next, [500; 8]);
    for task in sending {
        task.await.unwrap();
    }
    assert_eq!(receiver.bytes(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Send(usize),
    Receive,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![6 => (0_usize..40).prop_map(Step::Send), 5 => Just(Step::Receive), 1 => Just(Step::Close)]
}

proptest! {
    #[test]
    fn it_behaves_as_a_list_with_two_bounds(
        items in 1_usize..6,
        bytes in 1_usize..60,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let (sender, mut receiver) = bounded(items, bytes);
        let mut model: VecDeque<(usize, usize)> = VecDeque::new();
        let mut closed = false;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send(size) => {
                    let held: usize = model.iter().map(|(_, size)| size).sum();
                    let expected = if size > bytes {
                        Err(TrySendError::TooLarge(number))
                    } else if closed {
                        Err(TrySendError::Closed(number))
                    } else if model.len() == items || held + size > bytes {
                        Err(TrySendError::Full(number))
                    } else {
                        model.push_back((number, size));
                        Ok(())
                    };
                    prop_assert_eq!(sender.try_send(number, size), expected);
                }
                Step::Receive => prop_assert_eq!(receiver.try_recv(), model.pop_front().map(|(number, _)| number)),
                Step::Close => {
                    sender.close();
                    closed = true;
                }
            }
            prop_assert_eq!(sender.len(), model.len());
            prop_assert_eq!(sender.bytes(), model.iter().map(|(_, size)| size).sum::<usize>());
            prop_assert_eq!(receiver.is_ended(), closed && model.is_empty());
        }
    }
}
